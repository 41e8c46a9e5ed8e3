/* What the parts of the extension share: records filled from dicts, field by field, and arrays borrowed for a call. */
#ifndef EDGERUN_MODULE_H
#define EDGERUN_MODULE_H

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "edgerun.h"

/* Arrays that an object holds for as long as it lives. */
typedef struct views {
    Py_buffer *all;
    Py_ssize_t count, room;
} views;
void close_views(views *open);

/* The dict that a record is filled from. */
typedef struct source {
    const char *record;
    PyObject *fields;
    Py_ssize_t taken;
    views *open;
} source;

/* 0, or -1 and an exception that names record and field. */
int take_number(source *from, const char *name, int32_t *to);
int take_array(source *from, const char *name, const char *type, int64_t count, int writable, int optional, void **to);
int all_taken(const source *from);
/* NULL and an exception where the array is not of this type and length. */
void *open_array(views *open, const char *record, const char *name, PyObject *array, const char *type, int64_t count,
                 int writable);

/* A call's own array, to be given back with `give_back`. NULL and an exception where it does not fit. */
void *borrow(Py_buffer *view, PyObject *array, const char *name, const char *type, int64_t count, int writable);
void give_back(Py_buffer *view);

#define TAKE_NUMBER(name) \
    if (take_number(from, #name, &r->name)) return -1;
#define TAKE(type, name, count, writable, optional) \
    if (take_array(from, #name, #type, count, writable, optional, (void **)&r->name)) return -1;
#define TAKE_IN(type, name, count) TAKE(type, name, count, 0, 0)
#define TAKE_OPT(type, name, count) TAKE(type, name, count, 0, 1)
#define TAKE_OUT(type, name, count) TAKE(type, name, count, 1, 0)
#define TAKE_MAY(type, name, count) TAKE(type, name, count, 1, 1)
#define FILLER(kind, record, FIELDS) \
    static int fill_##record(source *from, record *r) { \
        FIELDS(TAKE_NUMBER, TAKE_IN, TAKE_OPT, TAKE_OUT, TAKE_MAY) \
        return 0; \
    }

/* An object serves one thread at a time. 0, or -1 and an exception where a call that let go of the interpreter's lock
 * is still at work on it.
 */
int at_work(const int *busy, const char *name);
#define BEGIN_WORK(busy) \
    (busy) = 1; \
    Py_BEGIN_ALLOW_THREADS
#define END_WORK(busy) \
    Py_END_ALLOW_THREADS \
    (busy) = 0;

/* A network and what holds its arrays. */
typedef struct {
    PyObject_HEAD
    er_net net;
    er_layer *layers;
    er_dense whiten;
    views open;
    int long_call; /* whether a window is worth releasing the interpreter lock for */
    int busy;      /* with a call of its own or of its learner */
} NetObject;

/* net.record(q, tapes, outputs): one window, written down.
 * q (size,) int16; tapes a tuple of er_tape's fields; outputs (last * outputs,) int32: the last layer's at the end. */
PyObject *net_record(PyObject *net, PyObject *args);

/* Adds the types of learning. 0, or -1 and an exception. */
int add_learning(PyObject *module);

#endif

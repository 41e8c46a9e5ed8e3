/* edgerun._native's part that learns. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

FILLER(, er_plastic, ER_PLASTIC)

static int fill_plastic(er_plastic *plastic, PyObject *fields, views *open) {
    if (!PyDict_Check(fields)) {
        PyErr_SetString(PyExc_TypeError, "plastic: its fields are no dict");
        return -1;
    }
    source from = {"plastic", fields, 0, open};
    if (fill_er_plastic(&from, plastic) || all_taken(&from)) return -1;
    const er_plastic *p = plastic;
    const int noted = !!p->importance, wide = noted && !p->small, narrow = noted && p->small;
    if (p->rows < 1 || p->columns < 1 || p->steps < 0 || p->steps > 128 || p->small == !!p->weight ||
        !!p->ref != wide || !!p->omega != wide || !!p->ref_high != narrow || !!p->omega_narrow != narrow ||
        p->shift < 8 * p->small || p->shift > 30 || p->gradient_shift < 8 * p->small || p->gradient_shift > 30 ||
        p->decay_shift < 0 || p->decay_shift > 30 || p->eta < 0 || p->eta > INT16_MAX || p->max_step < 0 ||
        p->max_step > 32512 || (noted && p->damping < 1)) {
        PyErr_SetString(PyExc_ValueError, "plastic: its numbers and arrays do not fit together");
        return -1;
    }
    return 0;
}

static int take_u64(PyObject *number, uint64_t *to) {
    *to = PyLong_AsUnsignedLongLong(number);
    return *to == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

/* ---------------------------------------------------------------- Plastic */

typedef struct {
    PyObject_HEAD
    er_plastic plastic;
    views open;
} PlasticObject;

static PyObject *plastic_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    PyObject *fields;
    if (!PyArg_ParseTuple(args, "O", &fields)) return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PlasticObject *self = (PlasticObject *)alloc(type, 0);
    if (!self) return NULL;
    if (fill_plastic(&self->plastic, fields, &self->open)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void plastic_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    close_views(&((PlasticObject *)object)->open);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* update(history, post, seed, number) -> squared norm of the change.   history (T, rows)   post (T, columns) */
static PyObject *plastic_update(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    er_plastic p = ((PlasticObject *)object)->plastic;
    Py_buffer history = {0}, post = {0};
    uint64_t seed, number;
    if (count != 4) return PyErr_Format(PyExc_TypeError, "update takes history, post, seed and number");
    if (take_u64(args[2], &seed) || take_u64(args[3], &number)) return NULL;
    const Py_ssize_t items = PyObject_Length(args[0]);
    if (items < 0) return NULL;
    if (items > 128) return PyErr_Format(PyExc_ValueError, "update: %zd steps are more than 128", items);
    p.steps = (int32_t)items;
    const int64_t rows = (int64_t)p.steps * p.rows, columns = (int64_t)p.steps * p.columns;
    const void *found = borrow(&history, args[0], "history", p.small ? "int8_t" : "int16_t", rows, 0);
    p.history = p.small ? NULL : found;
    p.history_high = p.small ? found : NULL;
    p.post = found ? borrow(&post, args[1], "post", "int16_t", columns, 0) : NULL;
    int64_t changed = 0;
    if (p.post) {
        Py_BEGIN_ALLOW_THREADS
        changed = er_update(&p, seed, number);
        Py_END_ALLOW_THREADS
    }
    const int failed = !p.post;
    give_back(&post);
    give_back(&history);
    return failed ? NULL : PyLong_FromLongLong(changed);
}

/* consolidate(seed, number): a boundary */
static PyObject *plastic_consolidate(PyObject *object, PyObject *args) {
    const er_plastic *p = &((PlasticObject *)object)->plastic;
    PyObject *seed_given, *number_given;
    uint64_t seed, number;
    if (!PyArg_ParseTuple(args, "OO", &seed_given, &number_given)) return NULL;
    if (take_u64(seed_given, &seed) || take_u64(number_given, &number)) return NULL;
    if (!p->importance) return PyErr_Format(PyExc_ValueError, "the tensor has no importance to consolidate");
    Py_BEGIN_ALLOW_THREADS
    er_consolidate(p, seed, number);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef plastic_methods[] = {
    {"update", (PyCFunction)(void (*)(void))plastic_update, METH_FASTCALL, "update(history, post, seed, number)"},
    {"consolidate", plastic_consolidate, METH_VARARGS, "consolidate(seed, number)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plastic_slots[] = {
    {Py_tp_new, (void *)plastic_new},
    {Py_tp_dealloc, (void *)plastic_dealloc},
    {Py_tp_methods, plastic_methods},
    {Py_tp_doc, "One plastic tensor over arrays that the caller owns."},
    {0, NULL},
};
static PyType_Spec plastic_spec = {"edgerun._native.Plastic", sizeof(PlasticObject), 0, Py_TPFLAGS_DEFAULT,
                                   plastic_slots};

/* ---------------------------------------------------------------- the module's part */

static int add_type(PyObject *module, const char *name, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    if (!type) return -1;
    const int failed = PyModule_AddObjectRef(module, name, type);
    Py_DECREF(type);
    return failed ? -1 : 0;
}

int add_learning(PyObject *module, PyTypeObject *Py_UNUSED(net)) { return add_type(module, "Plastic", &plastic_spec); }

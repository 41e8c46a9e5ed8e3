/* edgerun._native: the C kernels for Python. A record is filled from a dict, field by field, each array checked for its
 * type, its length and whether it may be written; views stay open for as long as the object lives.
 */
#include "module.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- records from dicts */

void close_views(views *open) {
    for (Py_ssize_t k = 0; k < open->count; k++) PyBuffer_Release(&open->all[k]);
    free(open->all);
    memset(open, 0, sizeof *open);
}

static PyObject *look_up(source *from, const char *name) {
    PyObject *found = PyDict_GetItemString(from->fields, name);
    if (found)
        from->taken++;
    else
        PyErr_Format(PyExc_ValueError, "%s: field %s is missing", from->record, name);
    return found;
}

int take_number(source *from, const char *name, int32_t *to) {
    PyObject *found = look_up(from, name);
    if (!found) return -1;
    long value = PyLong_AsLong(found);
    if (value == -1 && PyErr_Occurred()) return -1;
    if (value < INT32_MIN || value > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: %s %ld does not fit 32 bits", from->record, name, value);
        return -1;
    }
    *to = (int32_t)value;
    return 0;
}

/* Formats of the buffer protocol: signed and unsigned integers of one size. */
static int is_type(const Py_buffer *view, const char *type) {
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=' || (*format == '<' && PY_LITTLE_ENDIAN)) format++;
    const int is_unsigned = *type == 'u';
    const long bits = strtol(type + (is_unsigned ? 4 : 3), NULL, 10);
    const char *letters = is_unsigned ? "?BHILQ" : "bhilq";
    return format[0] && !format[1] && strchr(letters, format[0]) && view->itemsize * 8 == bits;
}

void *open_array(views *open, const char *record, const char *name, PyObject *array, const char *type, int64_t count,
                 int writable) {
    if (open->count == open->room) {
        Py_ssize_t room = open->room ? 2 * open->room : 16;
        Py_buffer *more = realloc(open->all, (size_t)room * sizeof *more);
        if (!more) return PyErr_NoMemory(), NULL;
        open->all = more;
        open->room = room;
    }
    Py_buffer *view = &open->all[open->count];
    if (PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) < 0)
        return NULL;
    open->count++;
    if (!is_type(view, type)) {
        PyErr_Format(PyExc_TypeError, "%s: %s holds items of format %s, not %s", record, name,
                     view->format ? view->format : "B", type);
        return NULL;
    }
    if ((uintptr_t)view->buf % (size_t)view->itemsize) {
        PyErr_Format(PyExc_ValueError, "%s: %s is not aligned to its items", record, name);
        return NULL;
    }
    if (count < 0 || view->len / view->itemsize != count) {
        PyErr_Format(PyExc_ValueError, "%s: %s has %zd items, not %lld", record, name, view->len / view->itemsize,
                     (long long)count);
        return NULL;
    }
    return view->buf;
}

int take_array(source *from, const char *name, const char *type, int64_t count, int writable, int optional, void **to) {
    PyObject *found = look_up(from, name);
    if (!found) return -1;
    *to = NULL;
    if (found == Py_None) {
        if (!optional) PyErr_Format(PyExc_ValueError, "%s: %s may not be None", from->record, name);
        return optional ? 0 : -1;
    }
    *to = open_array(from->open, from->record, name, found, type, count, writable);
    return *to ? 0 : -1;
}

ER_LAYERS(FILLER)
FILLER(, er_plan, ER_NET)

int all_taken(const source *from) {
    if (from->taken == PyDict_Size(from->fields)) return 0;
    PyErr_Format(PyExc_ValueError, "%s: %zd fields are given, it has %zd", from->record, PyDict_Size(from->fields),
                 from->taken);
    return -1;
}

static int check_layer(const er_layer *layer, const char *kind) {
    if (er_layer_fits(layer)) return 0;
    PyErr_Format(PyExc_ValueError, "%s: its numbers do not fit together", kind);
    return -1;
}

static int fill_layer(er_layer *layer, PyObject *kind_and_fields, views *open) {
    const char *kind;
    PyObject *fields, *name;
    if (!PyTuple_Check(kind_and_fields)) {
        PyErr_SetString(PyExc_TypeError, "a layer is no tuple of its kind and fields");
        return -1;
    }
    if (!PyArg_ParseTuple(kind_and_fields, "UO!", &name, &PyDict_Type, &fields)) return -1;
    kind = PyUnicode_AsUTF8AndSize(name, NULL);
    if (!kind) return -1;
    source from = {kind, fields, 0, open};
#define FILL_KIND(row, record, FIELDS) \
    if (!strcmp(kind, #row)) { \
        layer->kind = ER_KIND_##row; \
        return fill_##record(&from, &layer->as.row) || all_taken(&from) || check_layer(layer, kind) ? -1 : 0; \
    }
    ER_LAYERS(FILL_KIND)
    PyErr_Format(PyExc_ValueError, "layer kind %s has no C form", kind);
    return -1;
}

/* ---------------------------------------------------------------- Net */

static int check_net(const er_net *net) {
    const er_plan *plan = &net->plan;
    const int64_t heads = plan->capacity;
    if (plan->steps < 1 || plan->moment < 1 || plan->each_step < 0 || plan->each_step > plan->layers ||
        plan->outputs != er_layer_outputs(&net->layers[plan->layers - 1]) ||
        (plan->encoder == ER_PHASE_RATE && (!plan->phase || plan->full_scale < 1 || plan->moment != plan->size)) ||
        (plan->encoder == ER_FRAMES && (int64_t)plan->moment * plan->steps != plan->size) ||
        (plan->encoder == ER_CONSTANT && plan->moment != plan->size) ||
        (heads && (plan->features < 0 || plan->features >= plan->layers || plan->means < 1 || plan->means > 2 ||
                   !plan->z || !plan->sums || !plan->counts || !plan->bias || !plan->mean ||
                   er_layer_outputs(&net->layers[plan->features]) != plan->readings ||
                   (net->whiten ? !plan->raw || net->whiten->x != plan->raw || net->whiten->inputs != plan->readings ||
                                      net->whiten->outputs != plan->width
                                : plan->readings != plan->width)))) {
        PyErr_SetString(PyExc_ValueError, "net: its numbers do not fit together");
        return -1;
    }
    return 0;
}

static int fill_net(NetObject *self, PyObject *plan, PyObject *layers, PyObject *whiten) {
    const Py_ssize_t count = PyTuple_Size(layers);
    self->layers = calloc((size_t)(count ? count : 1), sizeof *self->layers);
    if (!self->layers) return PyErr_NoMemory(), -1;
    self->net.layers = self->layers;
    for (Py_ssize_t k = 0; k < count; k++)
        if (fill_layer(&self->layers[k], PyTuple_GetItem(layers, k), &self->open)) return -1;
    source from = {"net", plan, 0, &self->open};
    if (fill_er_plan(&from, &self->net.plan) || all_taken(&from)) return -1;
    if (whiten != Py_None) {
        source dense = {"whiten", whiten, 0, &self->open};
        if (fill_er_dense(&dense, &self->whiten) || all_taken(&dense)) return -1;
        self->net.whiten = &self->whiten;
    }
    if (self->net.plan.layers != count || !count) {
        PyErr_Format(PyExc_ValueError, "net: %d layers are announced, %zd given", self->net.plan.layers, count);
        return -1;
    }
    return check_net(&self->net);
}

static PyObject *net_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"plan", "layers", "whiten", "long_call", NULL};
    PyObject *plan, *layers, *whiten;
    int long_call;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!Op", names, &PyDict_Type, &plan, &PyTuple_Type, &layers,
                                     &whiten, &long_call))
        return NULL;
    if (whiten != Py_None && !PyDict_Check(whiten)) return PyErr_Format(PyExc_TypeError, "whiten is no dict");
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    NetObject *self = (NetObject *)alloc(type, 0);
    if (!self) return NULL;
    self->long_call = long_call;
    if (fill_net(self, plan, layers, whiten)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void net_dealloc(PyObject *object) {
    NetObject *self = (NetObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    close_views(&self->open);
    free(self->layers);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static int32_t argmax(const int32_t *scores, int32_t count) {
    int32_t best = 0;
    for (int32_t k = 1; k < count; k++)
        if (scores[k] > scores[best]) best = k;
    return count ? best : -1;
}

void *borrow(Py_buffer *view, PyObject *array, const char *name, const char *type, int64_t count, int writable) {
    views one = {view, 0, 1};
    return open_array(&one, "call", name, array, type, count, writable);
}

void give_back(Py_buffer *view) {
    if (view->obj) PyBuffer_Release(view);
}

int at_work(const int *busy, const char *name) {
    if (*busy) PyErr_Format(PyExc_RuntimeError, "the %s is at work in another thread", name);
    return *busy ? -1 : 0;
}

/* infer(q, known, scores) -> label: one window from a clean state.
 * q (size,) int16; scores int32: (known,) where prototypes decide, else (outputs,). -1 where known is 0. */
static PyObject *net_infer(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    NetObject *self = (NetObject *)object;
    const er_plan *plan = &self->net.plan;
    Py_buffer q = {0}, scores = {0};
    if (count != 3) return PyErr_Format(PyExc_TypeError, "infer takes q, known and scores, not %zd values", count);
    const long known = PyLong_AsLong(args[1]);
    if (known == -1 && PyErr_Occurred()) return NULL;
    if (known < 0 || known > (plan->capacity ? plan->capacity : plan->outputs))
        return PyErr_Format(PyExc_ValueError, "known %ld is outside [0, %d]", known,
                            plan->capacity ? plan->capacity : plan->outputs);
    PyObject *label = NULL;
    const int16_t *from = borrow(&q, args[0], "q", "int16_t", plan->size, 0);
    int32_t *to = from ? borrow(&scores, args[2], "scores", "int32_t", plan->capacity ? known : plan->outputs, 1) : NULL;
    if (to && !at_work(&self->busy, "net")) { /* asked last: what takes arguments may let others run */
        if (self->long_call) {
            BEGIN_WORK(self->busy)
            er_net_run(&self->net, from);
            er_net_decide(&self->net, (int32_t)known, to);
            END_WORK(self->busy)
        } else {
            er_net_run(&self->net, from);
            er_net_decide(&self->net, (int32_t)known, to);
        }
        label = PyLong_FromLong(argmax(to, (int32_t)known));
    }
    give_back(&scores);
    give_back(&q);
    return label;
}

/* run(q): one window from a clean state; states and outputs lie in the arrays that the net was made with. */
static PyObject *net_run(PyObject *object, PyObject *array) {
    NetObject *self = (NetObject *)object;
    Py_buffer q = {0};
    const int16_t *from = borrow(&q, array, "q", "int16_t", self->net.plan.size, 0);
    const int runs = from && !at_work(&self->busy, "net");
    if (runs) er_net_run(&self->net, from);
    give_back(&q);
    if (!runs) return NULL;
    Py_RETURN_NONE;
}

/* step(x): all layers once, on one moment.   x (moment,) */
static PyObject *net_step(PyObject *object, PyObject *array) {
    NetObject *self = (NetObject *)object;
    const er_plan *plan = &self->net.plan;
    Py_buffer x = {0};
    const int16_t *from = borrow(&x, array, "x", "int16_t", plan->moment, 0);
    const int runs = from && !at_work(&self->busy, "net");
    if (runs) {
        memmove(plan->x, from, (size_t)plan->moment * sizeof *from);
        er_net_step(&self->net);
    }
    give_back(&x);
    if (!runs) return NULL;
    Py_RETURN_NONE;
}

static PyObject *net_reset(PyObject *object, PyObject *Py_UNUSED(none)) {
    NetObject *self = (NetObject *)object;
    if (at_work(&self->busy, "net")) return NULL;
    er_net_reset(&self->net);
    Py_RETURN_NONE;
}

/* features(): fill z of the window that has just run. */
static PyObject *net_features(PyObject *object, PyObject *Py_UNUSED(none)) {
    NetObject *self = (NetObject *)object;
    if (!self->net.plan.capacity) return PyErr_Format(PyExc_ValueError, "the net has no prototypes");
    if (at_work(&self->busy, "net")) return NULL;
    er_net_features(&self->net);
    Py_RETURN_NONE;
}

/* decide(known, scores): of the window that has just run. */
static PyObject *net_decide(PyObject *object, PyObject *args) {
    NetObject *self = (NetObject *)object;
    const er_plan *plan = &self->net.plan;
    PyObject *array;
    int known;
    if (!PyArg_ParseTuple(args, "iO", &known, &array) || at_work(&self->busy, "net")) return NULL;
    if (known < 0 || known > (plan->capacity ? plan->capacity : plan->outputs))
        return PyErr_Format(PyExc_ValueError, "known %d is out of range", known);
    Py_buffer scores = {0};
    int32_t *to = borrow(&scores, array, "scores", "int32_t", plan->capacity ? known : plan->outputs, 1);
    if (to) er_net_decide(&self->net, known, to);
    give_back(&scores);
    if (!to) return NULL;
    Py_RETURN_NONE;
}

/* reading(layer, out): what a head reads of a layer.   out (outputs,) int32 */
static PyObject *net_reading(PyObject *object, PyObject *args) {
    NetObject *self = (NetObject *)object;
    PyObject *array;
    int layer;
    if (!PyArg_ParseTuple(args, "iO", &layer, &array) || at_work(&self->busy, "net")) return NULL;
    if (layer < 0 || layer >= self->net.plan.layers) return PyErr_Format(PyExc_ValueError, "no layer %d", layer);
    Py_buffer out = {0};
    int32_t *to = borrow(&out, array, "out", "int32_t", er_layer_outputs(&self->net.layers[layer]), 1);
    if (to) er_layer_reading(&self->net.layers[layer], to);
    give_back(&out);
    if (!to) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef net_methods[] = {
    {"infer", (PyCFunction)(void (*)(void))net_infer, METH_FASTCALL, "infer(q, known, scores) -> label"},
    {"run", net_run, METH_O, "run(q): one window from a clean state"},
    {"record", net_record, METH_VARARGS, "record(q, tapes, outputs): one window, written down"},
    {"step", net_step, METH_O, "step(x): all layers once, on one moment"},
    {"reset", net_reset, METH_NOARGS, "reset(): back to silence"},
    {"features", net_features, METH_NOARGS, "features(): fill z"},
    {"decide", net_decide, METH_VARARGS, "decide(known, scores): of the window that has just run"},
    {"reading", net_reading, METH_VARARGS, "reading(layer, out): what a head reads of a layer"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot net_slots[] = {
    {Py_tp_new, (void *)net_new},
    {Py_tp_dealloc, (void *)net_dealloc},
    {Py_tp_methods, net_methods},
    {Py_tp_doc, "A network of C layers over arrays that the caller owns."},
    {0, NULL},
};
static PyType_Spec net_spec = {"edgerun._native.Net", sizeof(NetObject), 0, Py_TPFLAGS_DEFAULT, net_slots};

/* ---------------------------------------------------------------- weights laid out again */

/* packed_size(layer) -> bytes of the packed form of (kind, fields), 0 where there is none. */
static PyObject *packed_size(PyObject *Py_UNUSED(module), PyObject *kind_and_fields) {
    er_layer layer;
    views open = {0};
    const int failed = fill_layer(&layer, kind_and_fields, &open);
    const int64_t size = failed ? 0 : er_layer_packed(&layer);
    close_views(&open);
    return failed ? NULL : PyLong_FromLongLong(size);
}

/* pack(layer, packed): lay the weights of (kind, fields).   packed (packed_size,) int8 */
static PyObject *pack(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *kind_and_fields, *array;
    er_layer layer;
    views open = {0};
    if (!PyArg_ParseTuple(args, "O!O", &PyTuple_Type, &kind_and_fields, &array)) return NULL;
    int8_t *to = NULL;
    if (!fill_layer(&layer, kind_and_fields, &open))
        to = open_array(&open, "pack", "packed", array, "int8_t", er_layer_packed(&layer), 1);
    if (to) er_layer_pack(&layer, to);
    close_views(&open);
    if (!to) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"packed_size", packed_size, METH_O, "packed_size(layer): bytes of its packed form, 0 where there is none"},
    {"pack", pack, METH_VARARGS, "pack(layer, packed): lay its weights"},
    {NULL, NULL, 0, NULL},
};

/* ---------------------------------------------------------------- the module */

#define KIND_NAME(kind, record, fields) #kind,
static const char *const kinds[] = {ER_LAYERS(KIND_NAME)};

static int fill_module(PyObject *module) {
    PyObject *net = PyType_FromSpec(&net_spec), *names = PyTuple_New(ER_KINDS);
    if (!net || !names) return -1;
    for (int k = 0; k < ER_KINDS; k++) PyTuple_SetItem(names, k, PyUnicode_FromString(kinds[k]));
    const int failed = PyModule_AddObjectRef(module, "Net", net) || PyModule_AddObjectRef(module, "KINDS", names) ||
                       add_learning(module);
    Py_DECREF(net);
    Py_DECREF(names);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill_module}, {0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The C kernels.", 0, functions, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }

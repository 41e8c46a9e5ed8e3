/* edgerun._native's part that learns. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

FILLER(, er_plastic, ER_PLASTIC)
FILLER(, er_tape, ER_TAPE)
FILLER(, er_taught, ER_TAUGHT)
FILLER(, er_link, ER_LINK)
FILLER(, er_population, ER_POPULATION)
FILLER(, er_rule, ER_RULE)
FILLER(, er_lessons, ER_LESSONS)

static int refuse(const char *record) {
    PyErr_Format(PyExc_ValueError, "%s: its numbers and arrays do not fit together", record);
    return -1;
}

/* One record of a tuple of dicts. */
#define FILL_ONE(name, record) \
    static int fill_##name(void *to, PyObject *fields, views *open) { \
        source from = {#name, fields, 0, open}; \
        return fill_##record(&from, to) || all_taken(&from) ? -1 : 0; \
    }
FILL_ONE(tape, er_tape)
FILL_ONE(taught, er_taught)
FILL_ONE(link, er_link)
FILL_ONE(population, er_population)

/* Memory for as many records as a tuple has dicts, each filled. */
static void *fill_all(PyObject *given, size_t size, int (*fill)(void *, PyObject *, views *), views *open) {
    const Py_ssize_t count = PyTuple_Size(given);
    char *all = calloc((size_t)(count > 0 ? count : 1), size);
    if (!all) return PyErr_NoMemory();
    for (Py_ssize_t k = 0; k < count; k++) {
        PyObject *fields = PyTuple_GetItem(given, k);
        if (!PyDict_Check(fields)) PyErr_SetString(PyExc_TypeError, "a record's fields are no dict");
        if (!PyDict_Check(fields) || fill(all + (size_t)k * size, fields, open)) {
            free(all);
            return NULL;
        }
    }
    return all;
}

static int fill_plastic(void *to, PyObject *fields, views *open) {
    er_plastic *p = to;
    source from = {"plastic", fields, 0, open};
    if (fill_er_plastic(&from, p) || all_taken(&from)) return -1;
    const int noted = !!p->importance, wide = noted && !p->small, narrow = noted && p->small, least = p->small ? 8 : 0;
    if (p->rows < 1 || p->columns < 1 || p->steps < 0 || p->steps > 128 || p->index < 0 || p->small == !!p->weight ||
        (p->small ? !!p->history : !!p->history_high) || !!p->ref != wide || !!p->omega != wide ||
        !!p->ref_high != narrow || !!p->omega_narrow != narrow || p->shift < least || p->shift > 30 ||
        p->gradient_shift < least || p->gradient_shift > 30 || p->decay_shift < 0 || p->decay_shift > 30 ||
        p->eta < 0 || p->eta > INT16_MAX || p->max_step < 0 || p->max_step > 32512 || p->max_norm < 0 ||
        p->max_norm > 1 << 24 || p->strength < 0 || p->strength > 58 || (noted && p->damping < 1) ||
        !p->mask != !p->growth || p->share < 0 || p->share > 1 << 15 || p->growth_shift < 0 || p->growth_shift > 15 ||
        (p->small && (p->largest || p->mean)) || p->fade < 0 || p->fade > 1 << 16 || p->floor < 0 || p->floor > 32 ||
        p->memory < 0 || p->memory > 20 || (p->steps && !p->history && !p->history_high) ||
        (p->max_norm && (p->rows > 1 << 16 || p->columns > 1 << 16)))
        return refuse("plastic");
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
    int busy;
} PlasticObject;

static PyObject *plastic_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    PyObject *fields;
    if (!PyArg_ParseTuple(args, "O!", &PyDict_Type, &fields)) return NULL;
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
    PlasticObject *self = (PlasticObject *)object;
    er_plastic p = self->plastic;
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
    const int failed = !p.post || at_work(&self->busy, "plastic tensor");
    if (!failed) {
        BEGIN_WORK(self->busy)
        changed = er_update(&p, seed, number);
        END_WORK(self->busy)
    }
    give_back(&post);
    give_back(&history);
    return failed ? NULL : PyLong_FromLongLong(changed);
}

/* consolidate(seed, number): a boundary */
static PyObject *plastic_consolidate(PyObject *object, PyObject *args) {
    PlasticObject *self = (PlasticObject *)object;
    const er_plastic *p = &self->plastic;
    PyObject *seed_given, *number_given;
    uint64_t seed, number;
    if (!PyArg_ParseTuple(args, "OO", &seed_given, &number_given)) return NULL;
    if (take_u64(seed_given, &seed) || take_u64(number_given, &number)) return NULL;
    if (at_work(&self->busy, "plastic tensor")) return NULL;
    if (!p->importance) return PyErr_Format(PyExc_ValueError, "the tensor has no importance to consolidate");
    BEGIN_WORK(self->busy)
    er_consolidate(p, seed, number);
    END_WORK(self->busy)
    Py_RETURN_NONE;
}

/* rewire() -> synapses that moved */
static PyObject *plastic_rewire(PyObject *object, PyObject *Py_UNUSED(none)) {
    PlasticObject *self = (PlasticObject *)object;
    const er_plastic *p = &self->plastic;
    int64_t moved = 0;
    if (at_work(&self->busy, "plastic tensor")) return NULL;
    if (!p->mask) return PyErr_Format(PyExc_ValueError, "the tensor has no synapses that move");
    BEGIN_WORK(self->busy)
    moved = er_rewire(p);
    END_WORK(self->busy)
    return PyLong_FromLongLong(moved);
}

static PyMethodDef plastic_methods[] = {
    {"update", (PyCFunction)(void (*)(void))plastic_update, METH_FASTCALL, "update(history, post, seed, number)"},
    {"consolidate", plastic_consolidate, METH_VARARGS, "consolidate(seed, number)"},
    {"rewire", plastic_rewire, METH_NOARGS, "rewire() -> synapses that moved"},
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

/* ---------------------------------------------------------------- recording */

static int check_tapes(const er_net *net, const er_tape *tapes, Py_ssize_t count) {
    for (Py_ssize_t k = 0; k < count; k++) {
        const er_tape *tape = &tapes[k];
        if (tape->layer < 0 || tape->layer >= net->plan.layers || net->layers[tape->layer].kind != ER_KIND_lif)
            return refuse("tape");
        const er_lif *lif = &net->layers[tape->layer].as.lif;
        if (tape->inputs != lif->inputs || tape->outputs != lif->outputs || tape->steps != net->plan.steps ||
            tape->chunk < 1 || tape->chunk > tape->steps || !tape->pre == !tape->pre_wide)
            return refuse("tape");
    }
    return 0;
}

PyObject *net_record(PyObject *net, PyObject *args) {
    const NetObject *self = (const NetObject *)net;
    const er_plan *plan = &self->net.plan;
    PyObject *sample, *given, *array;
    if (!PyArg_ParseTuple(args, "OO!O", &sample, &PyTuple_Type, &given, &array)) return NULL;
    if (at_work(&self->busy, "net")) return NULL;
    const Py_ssize_t count = PyTuple_Size(given), items = PyObject_Length(array);
    const int32_t last = (int32_t)(items / plan->outputs);
    if (items < 0) return NULL;
    if (last < 1 || last > plan->steps) return PyErr_Format(PyExc_ValueError, "record: outputs of %d steps", last);
    views open = {0};
    Py_buffer q = {0}, outputs = {0};
    er_tape *tapes = fill_all(given, sizeof *tapes, fill_tape, &open);
    int failed = !tapes || check_tapes(&self->net, tapes, count);
    const int16_t *from = failed ? NULL : borrow(&q, sample, "q", "int16_t", plan->size, 0);
    int32_t *to = from ? borrow(&outputs, array, "outputs", "int32_t", (int64_t)last * plan->outputs, 1) : NULL;
    if (to) er_net_record(&self->net, from, tapes, (int32_t)count, to, last);
    give_back(&outputs);
    give_back(&q);
    free(tapes);
    close_views(&open);
    if (!to) return NULL;
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- Learner */

typedef struct {
    PyObject_HEAD
    er_learner learner;
    er_plastic *plastic;
    er_tape *tapes;
    er_taught *taught;
    er_link *links;
    er_population *populations;
    PyObject *net;
    views open;
    int long_call;
} LearnerObject;

/* What e-prop at every step needs of a layer, in place of a tape. */
static int check_walk(const er_learner *l, const er_taught *each) {
    if (each->layer < 0 || each->layer >= l->net->plan.layers || l->net->layers[each->layer].kind != ER_KIND_lif)
        return refuse("taught");
    const er_lif *lif = &l->net->layers[each->layer].as.lif;
    if (each->inputs != lif->inputs || each->outputs != lif->outputs || each->chunk != 1 || lif->rho || !each->psi ||
        !each->input || !each->recurrent || !each->readout || !each->input_state || !each->recurrent_state ||
        !each->readout_state)
        return refuse("taught");
    return 0;
}

static int check_taped(const er_learner *l, const er_taught *each, const er_tape *tape) {
    const er_lif *lif = &l->net->layers[tape->layer].as.lif;
    if (each->inputs != tape->inputs || each->outputs != tape->outputs || each->chunk != tape->chunk ||
        each->inputs > l->rule.widest || each->outputs > l->rule.widest ||
        (each->adjoint && (!lif->rho || !lif->beta)))
        return refuse("taught");
    return 0;
}

static int check_taught(const er_learner *l) {
    const er_rule *r = &l->rule;
    const int online = r->kind == ER_EPROP_ONLINE;
    if (r->taught < 1 || !r->clipped || (!online && (!r->logits || !r->state)) || r->targets < 1 ||
        r->targets > (online ? l->net->plan.steps : 1) || r->targets > 128 ||
        (r->kind == ER_EPROP_VALUES && !r->target) || r->kappa < 0 || r->kappa > 1 << 15 || r->signal_shift < 1 ||
        r->signal_shift > 16 || r->post_shift < 1 ||
        r->post_shift > 8 || r->error_shift < 1 || r->error_shift > 24)
        return refuse("rule");
    for (int32_t k = 0; k < r->taught; k++) {
        const er_taught *each = &l->taught[k];
        if (online ? check_walk(l, each) : check_taped(l, each, &l->tapes[k])) return -1;
        if (each->last != r->last || r->last > each->chunk || each->classes != r->classes ||
            each->decay < 0 || each->decay > 1 << 15 ||
            each->reach < 1 || !each->feedback == !each->feedback_shadow ||
            (each->input && each->input_high) ||
            (each->recurrent && each->recurrent_high) || (each->readout && each->readout_high))
            return refuse("taught");
    }
    return 0;
}

static int check_links(const er_learner *l) {
    const er_rule *r = &l->rule;
    if (r->last != 1 || r->targets != 1 || r->links < 1 || l->links[r->links - 1].outputs != r->classes ||
        !l->links[r->links - 1].error)
        return refuse("rule");
    for (int32_t k = 0; k < r->links; k++) {
        const er_link *link = &l->links[k];
        if (link->layer < 0 || link->layer >= l->net->plan.layers || l->net->layers[link->layer].kind != ER_KIND_dense)
            return refuse("link");
        const er_dense *dense = &l->net->layers[link->layer].as.dense;
        if (dense->inputs != link->inputs || dense->outputs != link->outputs || dense->weight_zero ||
            link->back_shift < 0 || link->back_shift > 30 || (k && l->links[k - 1].outputs != link->inputs))
            return refuse("link");
    }
    return 0;
}

/* A population's layers and numbers; `last` is the one that meets the patterns. */
static int check_population(const er_learner *l, const er_population *each, int32_t k, int32_t last) {
    const er_plan *plan = &l->net->plan;
    const er_layer *layers = l->net->layers;
    const int top = k == last;
    if (each->synapses < 0 || each->synapses >= plan->layers || layers[each->synapses].kind != ER_KIND_dense_sum ||
        each->neurons < 0 || each->neurons >= plan->layers || layers[each->neurons].kind != ER_KIND_cells)
        return refuse("population");
    const er_dense_sum *from = &layers[each->synapses].as.dense_sum;
    if (each->inputs != from->inputs || each->outputs != from->outputs || each->steps != plan->steps ||
        each->outputs != layers[each->neurons].as.cells.outputs || each->inputs > l->rule.widest ||
        each->outputs > l->rule.widest || each->alpha < 0 || each->alpha > 1 << 15 || each->decay < 0 ||
        each->decay > 1 << 15 || (!each->spikes) == top || (!each->feedback) != top)
        return refuse("population");
    if (!top && (each->above <= k || each->above > last || each->fed != l->populations[each->above].outputs))
        return refuse("population");
    return 0;
}

static int check_populations(const er_learner *l) {
    const er_rule *r = &l->rule;
    const er_plan *plan = &l->net->plan;
    const er_layer *end = &l->net->layers[plan->layers - 1];
    if (r->populations < 1 || r->last != 1 || r->targets != 1 || !r->silence || !r->state || r->width_shift < 4 ||
        r->width_shift > 12 || r->signal_shift < 1 || r->signal_shift > 16 || r->post_shift < 1 || r->post_shift > 15 ||
        plan->steps > 128 || end->kind != ER_KIND_patterns || end->as.patterns.steps != plan->steps ||
        end->as.patterns.inputs != l->populations[r->populations - 1].outputs)
        return refuse("rule");
    for (int32_t k = 0; k < r->classes; k++)
        if (r->silence[k] < 0) return refuse("rule");
    for (int32_t k = 0; k < r->populations; k++)
        if (check_population(l, &l->populations[k], k, r->populations - 1)) return -1;
    return 0;
}

static int check_inner(const er_learner *l) {
    const er_rule *r = &l->rule;
    if (r->taught != 1 || r->plastic != 1 || r->last != 1 || r->targets != 1 || r->gate < 0) return refuse("rule");
    const er_taught *each = &l->taught[0];
    if (each->layer < 0 || each->layer >= l->net->plan.each_step ||
        l->net->layers[each->layer].kind != ER_KIND_readout)
        return refuse("taught");
    const er_readout *readout = &l->net->layers[each->layer].as.readout;
    if (each->inputs != readout->inputs || each->outputs != readout->outputs || each->outputs != r->classes ||
        each->chunk != 1 || each->decay < 0 || each->decay > 1 << 15 || each->reach < 1 || !each->input ||
        !each->input_state || l->plastic[0].columns != r->classes)
        return refuse("taught");
    return 0;
}

static int check_learner(const er_learner *l) {
    const er_rule *r = &l->rule;
    if (r->last < 1 || r->last > l->net->plan.steps || r->classes != l->net->plan.outputs || r->temperature_shift < 0 ||
        r->temperature_shift > 24)
        return refuse("rule");
    if (r->kind == ER_BACKPROP) return check_links(l);
    if (r->kind == ER_SUPERSPIKE) return check_populations(l);
    if (r->kind == ER_INNER) return check_inner(l);
    if (r->kind < ER_EPROP || r->kind > ER_EPROP_ONLINE) return refuse("rule");
    return (r->kind != ER_EPROP_ONLINE && check_tapes(l->net, l->tapes, r->taught)) || check_taught(l) ? -1 : 0;
}

static int fill_learner(LearnerObject *self, PyObject *rule, PyObject *plastic, PyObject *tapes, PyObject *taught,
                        PyObject *links, PyObject *populations) {
    er_learner *l = &self->learner;
    source from = {"rule", rule, 0, &self->open};
    if (fill_er_rule(&from, &l->rule) || all_taken(&from)) return -1;
    const int untaped = l->rule.kind == ER_EPROP_ONLINE || l->rule.kind == ER_INNER;
    const Py_ssize_t taped = untaped ? 0 : l->rule.taught;
    if (l->rule.plastic != PyTuple_Size(plastic) || taped != PyTuple_Size(tapes) ||
        l->rule.taught != PyTuple_Size(taught) || l->rule.links != PyTuple_Size(links) ||
        l->rule.populations != PyTuple_Size(populations))
        return refuse("rule");
    l->net = &((NetObject *)self->net)->net;
    l->plastic = self->plastic = fill_all(plastic, sizeof *self->plastic, fill_plastic, &self->open);
    if (!self->plastic) return -1;
    l->tapes = self->tapes = fill_all(tapes, sizeof *self->tapes, fill_tape, &self->open);
    if (!self->tapes) return -1;
    l->taught = self->taught = fill_all(taught, sizeof *self->taught, fill_taught, &self->open);
    if (!self->taught) return -1;
    l->links = self->links = fill_all(links, sizeof *self->links, fill_link, &self->open);
    if (!self->links) return -1;
    self->populations = fill_all(populations, sizeof *self->populations, fill_population, &self->open);
    l->populations = self->populations;
    return self->populations ? check_learner(l) : -1;
}

/* Whether an object is of one of the module's types: 1, or 0 and an exception. */
static int is_a(PyObject *object, const char *name) {
    PyObject *module = PyImport_ImportModule("edgerun._native");
    PyObject *type = module ? PyObject_GetAttrString(module, name) : NULL;
    const int right = type && Py_TYPE(object) == (PyTypeObject *)type;
    if (type && !right) PyErr_Format(PyExc_TypeError, "that is no %s", name);
    Py_XDECREF(type);
    Py_XDECREF(module);
    return right;
}

static PyObject *learner_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    PyObject *net, *rule, *plastic, *tapes, *taught, *links, *populations;
    int long_call;
    if (!PyArg_ParseTuple(args, "OO!O!O!O!O!O!p", &net, &PyDict_Type, &rule, &PyTuple_Type, &plastic, &PyTuple_Type,
                          &tapes, &PyTuple_Type, &taught, &PyTuple_Type, &links, &PyTuple_Type, &populations,
                          &long_call))
        return NULL;
    if (!is_a(net, "Net")) return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    LearnerObject *self = (LearnerObject *)alloc(type, 0);
    if (!self) return NULL;
    self->net = Py_NewRef(net);
    self->long_call = long_call;
    if (fill_learner(self, rule, plastic, tapes, taught, links, populations)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void learner_dealloc(PyObject *object) {
    LearnerObject *self = (LearnerObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    close_views(&self->open);
    free(self->plastic);
    free(self->tapes);
    free(self->taught);
    free(self->links);
    free(self->populations);
    Py_XDECREF(self->net);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* Whether the learner's network is at work, and with it all that the learner writes. */
static int *busy_of(const LearnerObject *self) { return &((NetObject *)self->net)->busy; }

/* The arguments of a labelled window, with what they borrow. */
typedef struct window {
    Py_buffer held[4]; /* q, in_play, p, changed */
    const int16_t *q;
    const uint8_t *in_play;
    int32_t label, threshold;
    uint64_t update;
} window;

static void close_window(window *w) {
    for (int k = 3; k >= 0; k--) give_back(&w->held[k]);
}

/* 0, or -1 and an exception; to be closed in either case. */
static int open_window(const er_learner *l, PyObject *const *args, window *w) {
    const long label = PyLong_AsLong(args[1]), threshold = PyLong_AsLong(args[2]);
    memset(w, 0, sizeof *w);
    if ((label == -1 || threshold == -1) && PyErr_Occurred()) return -1;
    if (label < 0 || label >= l->rule.classes || threshold < INT32_MIN || threshold > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "label %ld is outside [0, %d)", label, l->rule.classes);
        return -1;
    }
    w->label = (int32_t)label;
    w->threshold = (int32_t)threshold;
    if (take_u64(args[4], &w->update)) return -1;
    w->q = borrow(&w->held[0], args[0], "q", "int16_t", l->net->plan.size, 0);
    w->in_play = w->q ? borrow(&w->held[1], args[3], "in_play", "uint8_t", l->rule.classes, 0) : NULL;
    if (!w->in_play) return -1;
    if (l->rule.kind == ER_EPROP_VALUES || w->in_play[label]) return 0;
    PyErr_Format(PyExc_ValueError, "label %ld is not in play", label);
    return -1;
}

/* learn(q, label, threshold, in_play, update) -> (p, changed): one labelled window.   q (size,)   in_play (classes,) */
static PyObject *learner_learn(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    const LearnerObject *self = (const LearnerObject *)object;
    const er_learner *l = &self->learner;
    if (count != 5 || l->rule.kind == ER_EPROP_ONLINE)
        return PyErr_Format(PyExc_TypeError, "learn takes 5 values and no rule of every step");
    int *busy = busy_of(self);
    window w;
    int32_t p = 0;
    int64_t changed = -1;
    const int failed = open_window(l, args, &w) || at_work(busy, "net");
    if (!failed && self->long_call) {
        BEGIN_WORK(*busy)
        p = er_learn_window(l, w.q, w.label, w.threshold, w.in_play, w.update, &changed);
        END_WORK(*busy)
    } else if (!failed) {
        p = er_learn_window(l, w.q, w.label, w.threshold, w.in_play, w.update, &changed);
    }
    close_window(&w);
    return failed ? NULL : Py_BuildValue("iL", (int)p, (long long)changed);
}

/* learn_online(q, label, threshold, in_play, update, p, changed) -> updates: the same where steps are updates.
 * p int32 and changed int64 (targets,) are written. */
static PyObject *learner_learn_online(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    const LearnerObject *self = (const LearnerObject *)object;
    const er_learner *l = &self->learner;
    if (count != 7 || l->rule.kind != ER_EPROP_ONLINE)
        return PyErr_Format(PyExc_TypeError, "learn_online takes 7 values and a rule of every step");
    int *busy = busy_of(self);
    window w;
    int32_t updates = 0, *p = NULL;
    int64_t *changed = NULL;
    int failed = open_window(l, args, &w);
    if (!failed) p = borrow(&w.held[2], args[5], "p", "int32_t", l->rule.targets, 1);
    if (p) changed = borrow(&w.held[3], args[6], "changed", "int64_t", l->rule.targets, 1);
    failed = !changed || at_work(busy, "net");
    if (!failed) {
        BEGIN_WORK(*busy)
        updates = er_learn_online(l, w.q, w.label, w.threshold, w.in_play, w.update, p, changed);
        END_WORK(*busy)
    }
    close_window(&w);
    return failed ? NULL : PyLong_FromLong(updates);
}

/* factors(): from tape and error, as they lie, to the factors of every gradient */
static PyObject *learner_factors(PyObject *object, PyObject *Py_UNUSED(none)) {
    const er_learner *l = &((const LearnerObject *)object)->learner;
    if (l->rule.kind == ER_EPROP_ONLINE) return PyErr_Format(PyExc_TypeError, "a rule of every step has no tape");
    if (at_work(busy_of((const LearnerObject *)object), "net")) return NULL;
    er_learn_factors(l);
    Py_RETURN_NONE;
}

static PyMethodDef learner_methods[] = {
    {"learn", (PyCFunction)(void (*)(void))learner_learn, METH_FASTCALL, "learn(q, label, threshold, in_play, update)"},
    {"learn_online", (PyCFunction)(void (*)(void))learner_learn_online, METH_FASTCALL,
     "learn_online(q, label, threshold, in_play, update, p, changed)"},
    {"factors", learner_factors, METH_NOARGS, "factors(): of what lies on the tape"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot learner_slots[] = {
    {Py_tp_new, (void *)learner_new},
    {Py_tp_dealloc, (void *)learner_dealloc},
    {Py_tp_methods, learner_methods},
    {Py_tp_doc, "A rule over a Net, in arrays that the caller owns."},
    {0, NULL},
};
static PyType_Spec learner_spec = {"edgerun._native.Learner", sizeof(LearnerObject), 0, Py_TPFLAGS_DEFAULT,
                                   learner_slots};

/* ---------------------------------------------------------------- Pupil */

typedef struct {
    PyObject_HEAD
    er_pupil pupil;
    PyObject *net, *learner;
    views open;
} PupilObject;

static int doubt_unsound(const er_lessons *r) {
    return r->margins < 0 || r->sure < 0 || r->sure >= 1 << 15 ||
           (r->margins && (r->votes < 1 || !r->margin || !r->agreed || !r->told));
}

static int check_pupil(const er_pupil *p) {
    const er_lessons *r = &p->plan;
    const er_plan *plan = &p->net->plan;
    const int held = r->capacity > 0;
    const int32_t most = p->learner && r->outputs < r->classes ? r->outputs : r->classes; /* labels */
    if ((p->learner && p->learner->net != p->net) || r->size != plan->size || r->outputs != plan->outputs ||
        r->classes < r->factory || r->factory < 0 || doubt_unsound(r) ||
        (plan->capacity && (plan->capacity != r->classes || !r->factory_count)) || r->recents < 1 || r->passes < 0 ||
        r->capacity < 0 || r->refresh_every < 1 || r->every < 0 || r->rewire_every < 0 || r->update_share < 1 ||
        r->update_share > 1 << 15 ||
        (r->recent_labels && r->recent_labels != r->recents) || (held && !r->x == !r->x_unsigned) ||
        (held && (!r->label || !r->field || !r->since || !r->seen)) || ((r->every || r->rewire_every) && !p->learner) ||
        p->at->known < 0 || p->at->known > most || p->at->recent_at < 0 || p->at->recent_at >= r->recents)
        return refuse("lessons");
    for (int32_t i = 0; i < r->recents; i++)
        if (r->recent[i] < -1 || r->recent[i] >= r->outputs) return refuse("lessons");
    for (int32_t i = 0; i < r->capacity; i++)
        if (r->label[i] < -1 || r->label[i] >= most || r->field[i] > 1) return refuse("lessons");
    return 0;
}

static PyObject *pupil_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    PyObject *net, *learner, *fields, *counters;
    if (!PyArg_ParseTuple(args, "OOO!O", &net, &learner, &PyDict_Type, &fields, &counters)) return NULL;
    if (!is_a(net, "Net") || (learner != Py_None && !is_a(learner, "Learner"))) return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PupilObject *self = (PupilObject *)alloc(type, 0);
    if (!self) return NULL;
    self->net = Py_NewRef(net);
    self->learner = Py_NewRef(learner);
    self->pupil.net = &((NetObject *)net)->net;
    self->pupil.learner = learner == Py_None ? NULL : &((LearnerObject *)learner)->learner;
    source from = {"lessons", fields, 0, &self->open};
    const int64_t numbers = sizeof(er_counters) / sizeof(int64_t);
    if (!fill_er_lessons(&from, &self->pupil.plan) && !all_taken(&from))
        self->pupil.at = open_array(&self->open, "pupil", "counters", counters, "int64_t", numbers, 1);
    if (!self->pupil.at || check_pupil(&self->pupil)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void pupil_dealloc(PyObject *object) {
    PupilObject *self = (PupilObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    close_views(&self->open);
    Py_XDECREF(self->net);
    Py_XDECREF(self->learner);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static int check_label(const er_pupil *p, long label) {
    if (label >= 0 && label < (p->at->known ? p->at->known : 1)) return 0;
    PyErr_Format(PyExc_ValueError, "label %ld is outside [0, %lld)", label, (long long)p->at->known);
    return -1;
}

static int pupil_at_work(PyObject *pupil) { return at_work(&((NetObject *)((PupilObject *)pupil)->net)->busy, "net"); }

typedef er_report lesson_of(const er_pupil *pupil, const int16_t *q, int32_t label, enum er_level level);

/* One lesson, into *report; 0, or -1 and an exception. */
static int give_lesson(PyObject *object, PyObject *args, lesson_of *lesson, er_report *report) {
    const er_pupil *p = &((PupilObject *)object)->pupil;
    PyObject *array;
    long label;
    int level;
    if (!PyArg_ParseTuple(args, "Oli", &array, &label, &level) || pupil_at_work(object)) return -1;
    if (check_pupil(p) || check_label(p, label)) return -1;
    if (level < ER_FULL || level > ER_HEAD) PyErr_Format(PyExc_ValueError, "no level %d", level);
    else if (p->plan.capacity && !p->at->known) PyErr_Format(PyExc_ValueError, "no class is known to replay");
    if (PyErr_Occurred()) return -1;
    Py_buffer q = {0};
    const int16_t *from = borrow(&q, array, "q", "int16_t", p->plan.size, 0);
    if (from) *report = lesson(p, from, (int32_t)label, (enum er_level)level);
    give_back(&q);
    return from ? 0 : -1;
}

/* lesson(q, label, level) -> (label, p, updates, changed) */
static PyObject *pupil_lesson(PyObject *object, PyObject *args) {
    er_report r;
    if (give_lesson(object, args, er_lesson, &r)) return NULL;
    return Py_BuildValue("iiiL", (int)r.label, (int)r.p, (int)r.updates, (long long)r.changed);
}

/* feedback(q, label, level) -> (label, p, updates, changed, aside): a lesson whose label may be doubted */
static PyObject *pupil_feedback(PyObject *object, PyObject *args) {
    er_report r;
    if (give_lesson(object, args, er_feedback, &r)) return NULL;
    return Py_BuildValue("iiiLi", (int)r.label, (int)r.p, (int)r.updates, (long long)r.changed, (int)r.aside);
}

static PyObject *pupil_settle(PyObject *object, PyObject *Py_UNUSED(none)) {
    const er_pupil *p = &((PupilObject *)object)->pupil;
    if (pupil_at_work(object) || check_pupil(p)) return NULL;
    er_settle(p);
    Py_RETURN_NONE;
}

static PyObject *pupil_boundary(PyObject *object, PyObject *Py_UNUSED(none)) {
    const er_pupil *p = &((PupilObject *)object)->pupil;
    if (pupil_at_work(object)) return NULL;
    if (p->learner) er_boundary(p->learner, (uint64_t)p->at->updates);
    Py_RETURN_NONE;
}

static PyObject *pupil_forget(PyObject *object, PyObject *number) {
    const er_pupil *p = &((PupilObject *)object)->pupil;
    const long label = PyLong_AsLong(number);
    if ((label == -1 && PyErr_Occurred()) || pupil_at_work(object)) return NULL;
    if (check_pupil(p) || check_label(p, label)) return NULL;
    er_forget(p, (int32_t)label);
    Py_RETURN_NONE;
}

static PyMethodDef pupil_methods[] = {
    {"lesson", pupil_lesson, METH_VARARGS, "lesson(q, label, level) -> (label, p, updates, changed)"},
    {"feedback", pupil_feedback, METH_VARARGS, "feedback(q, label, level) -> (label, p, updates, changed, aside)"},
    {"settle", pupil_settle, METH_NOARGS, "settle(): prototypes from the reservoir"},
    {"boundary", pupil_boundary, METH_NOARGS, "boundary(): credit becomes importance, synapses move"},
    {"forget", pupil_forget, METH_O, "forget(label): one class, without a trace"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pupil_slots[] = {
    {Py_tp_new, (void *)pupil_new},
    {Py_tp_dealloc, (void *)pupil_dealloc},
    {Py_tp_methods, pupil_methods},
    {Py_tp_doc, "What a controller does with a lesson, in arrays that the caller owns."},
    {0, NULL},
};
static PyType_Spec pupil_spec = {"edgerun._native.Pupil", sizeof(PupilObject), 0, Py_TPFLAGS_DEFAULT, pupil_slots};

/* ---------------------------------------------------------------- the module's part */

static int add_type(PyObject *module, const char *name, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    if (!type) return -1;
    const int failed = PyModule_AddObjectRef(module, name, type);
    Py_DECREF(type);
    return failed ? -1 : 0;
}

int add_learning(PyObject *module) {
    return add_type(module, "Plastic", &plastic_spec) || add_type(module, "Learner", &learner_spec) ||
                   add_type(module, "Pupil", &pupil_spec)
               ? -1
               : 0;
}

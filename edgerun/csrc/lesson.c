/* A whole lesson: answer, learn, replay, remember; and what is done now and then. */
#include "edgerun.h"

#include <string.h>

enum { EMPTY = -1, RESERVOIR = 4095, ALL = 1 << 15, TRIGGER_GAIN = 4 };

static uint64_t seed_of(const er_lessons *r) { return r->seed[0] | (uint64_t)r->seed[1] << 32; }

/* A number in [0, below) of a random word. */
static int64_t below(uint32_t word, int64_t count) { return (int64_t)(word * (uint64_t)count >> 32); }

/* ---------------------------------------------------------------- the reservoir */

static int32_t held(const er_lessons *r) {
    int32_t count = 0;
    for (int32_t i = 0; i < r->capacity; i++) count += r->label[i] != EMPTY;
    return count;
}

/* The k-th place that is held. */
static int32_t place_held(const er_lessons *r, int64_t k) {
    int32_t i = 0;
    for (;; i++)
        if (r->label[i] != EMPTY && k-- == 0) return i;
}

static int32_t members(const er_lessons *r, int32_t label, int32_t field) {
    int32_t count = 0;
    for (int32_t i = 0; i < r->capacity; i++) count += r->label[i] == label && r->field[i] == field;
    return count;
}

/* The place of the k-th sample of a class that is from the field, or from the factory. */
static int32_t member(const er_lessons *r, int32_t label, int32_t field, int64_t k) {
    int32_t i = 0;
    for (;; i++)
        if (r->label[i] == label && r->field[i] == field && k-- == 0) return i;
}

/* A place of the class that holds most, its factory samples first. */
static int32_t from_largest(const er_lessons *r, uint32_t word) {
    int32_t largest = 0, most = -1;
    for (int32_t k = 0; k < r->classes; k++) {
        const int32_t count = members(r, k, 0) + members(r, k, 1);
        if (count > most) {
            most = count;
            largest = k;
        }
    }
    const int32_t factory = members(r, largest, 0), field = members(r, largest, 1);
    return member(r, largest, factory ? 0 : 1, below(word, factory ? factory : field));
}

/* Where a field sample of a class goes, or EMPTY: below its quota it is kept, above it competes with its own class. */
static int32_t place_of(const er_lessons *r, int32_t label, int64_t known, const uint32_t word[2]) {
    const int32_t quota = r->capacity / known > 1 ? (int32_t)(r->capacity / known) : 1;
    const int32_t factory = members(r, label, 0), field = members(r, label, 1);
    if (factory + field < quota) {
        for (int32_t i = 0; i < r->capacity; i++)
            if (r->label[i] == EMPTY) return i;
        return from_largest(r, word[0]);
    }
    if (factory > quota / 2) return member(r, label, 0, below(word[0], factory));
    return field > below(word[1], r->seen[label]) ? member(r, label, 1, below(word[0], field)) : EMPTY;
}

static void keep(const er_lessons *r, const int16_t *q, int32_t label, int64_t lesson, int64_t known) {
    if (r->seen[label] < INT32_MAX) r->seen[label]++;
    const er_key key = er_noise_key(seed_of(r), (uint64_t)lesson, RESERVOIR * 16 + ER_USE_PULL);
    const uint32_t word[2] = {er_word(key, 0), er_word(key, 1)};
    const int32_t place = place_of(r, label, known, word);
    if (place == EMPTY) return;
    const size_t row = (size_t)place * (size_t)r->size;
    for (int32_t i = 0; i < r->size; i++) {
        if (r->x)
            r->x[row + (size_t)i] = (int8_t)q[i];
        else
            r->x_unsigned[row + (size_t)i] = (uint8_t)q[i];
    }
    r->label[place] = (int16_t)label;
    r->field[place] = 1;
    r->since[place] = er_sat32(lesson);
}

/* sample <- what a place holds */
static void recall(const er_lessons *r, int32_t place) {
    const size_t row = (size_t)place * (size_t)r->size;
    for (int32_t i = 0; i < r->size; i++)
        r->sample[i] = r->x ? r->x[row + (size_t)i] : r->x_unsigned[row + (size_t)i];
}

/* ---------------------------------------------------------------- prototypes */

static int32_t taught_row(const er_plan *plan) { return (plan->means - 1) * plan->capacity; }

static void refresh_means(const er_plan *plan) {
    er_class_means(plan->mean, plan->sums, plan->counts, plan->means * plan->capacity, plan->width);
}

/* How much the held samples of some classes scatter: squared distances to their class's mean, degrees of freedom. */
typedef struct scatter {
    int64_t squares, degrees;
} scatter;

/* What is known of one class while its samples go by: their sum in its rows of `mean`, |z|**2 and how many. */
static scatter class_scatter(const er_plan *plan, int32_t k, int64_t squares, int64_t count) {
    if (count < 2) return (scatter){0, 0};
    const int32_t *total = plan->mean + (size_t)k * (size_t)plan->width;
    const int32_t *more = plan->means > 1 ? total + (size_t)plan->capacity * (size_t)plan->width : NULL;
    int64_t square = 0;
    for (int32_t i = 0; i < plan->width; i++) {
        const int64_t sum = (int64_t)total[i] + (more ? more[i] : 0);
        square += sum * sum;
    }
    return (scatter){(count * squares - square) / count, count - 1};
}

/* Run every held sample of a class; with `recompute`, the sums become its prototypes. Returns how they scatter. */
static scatter settle_class(const er_pupil *pupil, int32_t k, int recompute) {
    const er_lessons *r = &pupil->plan;
    const er_plan *plan = &pupil->net->plan;
    const size_t width = (size_t)plan->width, rows[2] = {(size_t)k, (size_t)(k + taught_row(plan))};
    int32_t counts[2] = {0, 0};
    int64_t squares = 0, count = 0;
    for (int32_t own = 0; own < plan->means; own++)
        memset(plan->mean + rows[own] * width, 0, width * sizeof *plan->mean);
    for (int32_t i = 0; i < r->capacity; i++) {
        if (r->label[i] != k) continue;
        const int32_t own = plan->means > 1 && r->field[i];
        int32_t *total = plan->mean + rows[own] * width;
        recall(r, i);
        er_net_run(pupil->net, r->sample);
        er_net_features(pupil->net);
        for (size_t j = 0; j < width; j++) {
            total[j] += plan->z[j];
            squares += (int64_t)plan->z[j] * plan->z[j];
        }
        counts[own]++;
        count++;
    }
    for (int32_t own = 0; recompute && own < plan->means; own++) {
        if (!counts[own]) continue;
        memcpy(plan->sums + rows[own] * width, plan->mean + rows[own] * width, width * sizeof *plan->sums);
        plan->counts[rows[own]] = counts[own];
    }
    return class_scatter(plan, k, squares, count);
}

static int joined(const er_lessons *r, int32_t k) { return k >= r->factory || r->factory_count[k] == 0; }

void er_settle(const er_pupil *pupil) {
    const er_plan *plan = &pupil->net->plan;
    const er_lessons *r = &pupil->plan;
    if (!plan->capacity || !r->capacity) return;
    const int recompute = pupil->at->deep_lessons > 0 || plan->means == 1;
    const int32_t *counts = plan->counts + taught_row(plan);
    scatter all = {0, 0}, new = {0, 0};
    for (int32_t k = 0; k < pupil->at->known; k++) {
        const scatter found = settle_class(pupil, k, recompute);
        all = (scatter){all.squares + found.squares, all.degrees + found.degrees};
        if (joined(r, k) && counts[k] > 0) new = (scatter){new.squares + found.squares, new.degrees + found.degrees};
    }
    if (!new.degrees) new = all;
    for (int32_t k = 0; new.degrees && k < pupil->at->known; k++)
        if (joined(r, k) && counts[k] > 0)
            plan->bias[taught_row(plan) + k] = er_sat32(new.squares / (new.degrees * counts[k]));
    refresh_means(plan);
}

static void add_to_prototype(const er_pupil *pupil, int32_t label) {
    const er_plan *plan = &pupil->net->plan;
    const size_t row = (size_t)(taught_row(plan) + label);
    er_net_features(pupil->net);
    er_prototype_add(plan->sums + row * (size_t)plan->width, &plan->counts[row], plan->z, plan->width);
    refresh_means(plan);
}

/* ---------------------------------------------------------------- lessons */

/* The classes that the error is restricted to, this label among them. */
static const uint8_t *plays(const er_pupil *pupil, int32_t label) {
    const er_lessons *r = &pupil->plan;
    er_counters *at = pupil->at;
    r->recent[at->recent_at] = (int16_t)label;
    at->recent_at = (at->recent_at + 1) % r->recents;
    for (int32_t k = 0; k < r->outputs; k++) r->in_play[k] = !r->recent_labels && k < at->known;
    for (int32_t i = 0; r->recent_labels && i < r->recents; i++)
        if (r->recent[i] != EMPTY) r->in_play[r->recent[i]] = 1;
    return r->in_play;
}

/* Factors and updates of a window that has been recorded, where p is not high enough. */
static void learn(const er_pupil *pupil, int32_t p, int64_t threshold, er_report *report) {
    if (p >= threshold) return;
    er_learn_factors(pupil->learner);
    report->changed += er_learn_update(pupil->learner, (uint64_t)pupil->at->updates);
    pupil->at->updates++;
    report->updates++;
}

static int32_t answer(const er_pupil *pupil) {
    const er_lessons *r = &pupil->plan;
    int32_t best = 0;
    er_net_decide(pupil->net, (int32_t)pupil->at->known, r->scores);
    for (int32_t k = 1; k < pupil->at->known; k++)
        if (r->scores[k] > r->scores[best]) best = k;
    return pupil->at->known ? best : -1;
}

/* A whole window: answer it where `answered`, then learn from it. Returns p, of steps online the mean. */
static int32_t learn_window(const er_pupil *pupil, const int16_t *q, int32_t label, int64_t threshold, int answered,
                            er_report *report) {
    const er_learner *l = pupil->learner;
    const uint8_t *in_play = plays(pupil, label);
    if (l->rule.kind != ER_EPROP_ONLINE) {
        const int32_t p = er_learn_record(l, q, label, in_play);
        if (answered) report->label = answer(pupil);
        learn(pupil, p, threshold, report);
        return p;
    }
    int32_t p[128], total = 0;
    int64_t changed[128];
    if (answered) {
        er_net_run(pupil->net, q);
        report->label = answer(pupil);
    }
    const int32_t updates =
        er_learn_online(l, q, label, (int32_t)threshold, in_play, (uint64_t)pupil->at->updates, p, changed);
    pupil->at->updates += updates;
    report->updates += updates;
    for (int32_t t = 0; t < l->rule.targets; t++) {
        total += p[t];
        report->changed += changed[t] < 0 ? 0 : changed[t];
    }
    return total / l->rule.targets;
}

/* Move the threshold towards the share of updates that the level is to have. */
static void trigger(const er_pupil *pupil, enum er_level level, int64_t updates, int64_t windows) {
    const er_lessons *r = &pupil->plan;
    if (r->update_share >= ALL) return;
    const int64_t share = r->update_share >> level, seen = ALL * updates / windows;
    pupil->at->threshold = er_clip(pupil->at->threshold + ((share - seen) >> TRIGGER_GAIN), 0, r->error_threshold);
}

static void deep_lesson(const er_pupil *pupil, const int16_t *q, int32_t label, enum er_level level,
                        er_report *report) {
    const er_lessons *r = &pupil->plan;
    const er_key key = er_noise_key(seed_of(r), (uint64_t)pupil->at->lessons, RESERVOIR * 16 + ER_USE_UPDATE);
    const int64_t threshold = pupil->at->threshold;
    const int32_t filled = held(r), most = level == ER_FULL || r->passes < 1 ? r->passes : 1;
    const int32_t passes = filled ? most : 0;
    pupil->at->deep_lessons++;
    report->p = learn_window(pupil, q, label, threshold, 1, report);
    for (int32_t i = 0; i < passes; i++) {
        const int32_t place = place_held(r, below(er_word(key, (uint32_t)i), filled)), old = r->label[place];
        recall(r, place);
        learn_window(pupil, r->sample, old, threshold, 0, report);
    }
    trigger(pupil, level, report->updates, (int64_t)pupil->learner->rule.targets * (1 + passes));
}

/* Whether a multiple of `every` lies between two counts of updates; never where it is 0. */
static int passed(int64_t every, int64_t before, int64_t now) { return every && now / every != before / every; }

er_report er_lesson(const er_pupil *pupil, const int16_t *q, int32_t label, enum er_level level) {
    const er_lessons *r = &pupil->plan;
    er_counters *at = pupil->at;
    const int deep = level != ER_HEAD && pupil->learner;
    const int64_t before = at->updates;
    er_report report = {.p = -1};
    at->lessons++;
    if (deep) {
        deep_lesson(pupil, q, label, level, &report);
    } else {
        er_net_run(pupil->net, q);
        report.label = answer(pupil);
        if (pupil->net->plan.capacity) add_to_prototype(pupil, label);
    }
    if (r->capacity) {
        keep(r, q, label, at->lessons, at->known);
        if (deep && at->deep_lessons % r->refresh_every == 0) er_settle(pupil);
    }
    if (passed(r->every, before, at->updates)) er_learn_consolidate(pupil->learner, (uint64_t)at->updates);
    if (passed(r->rewire_every, before, at->updates)) er_learn_rewire(pupil->learner);
    return report;
}

/* ---------------------------------------------------------------- labels that cannot be right */

/* The margin from which on a sample looks surely like its class: of all, in order, the one that the share lies under. */
static int32_t bar(const er_lessons *r) {
    const int32_t under = (int32_t)((int64_t)r->margins * r->sure >> 15);
    int64_t low = INT32_MIN, high = INT32_MAX;
    while (low < high) {
        const int64_t between = (low + high) >> 1;
        int32_t count = 0;
        for (int32_t i = 0; i < r->margins; i++) count += r->margin[i] <= between;
        if (count > under)
            high = between;
        else
            low = between + 1;
    }
    return (int32_t)low;
}

/* The best score less the second best of several. */
static int32_t margin_of(const int32_t *scores, int32_t best, int64_t count) {
    int32_t second = INT32_MIN;
    for (int32_t k = 0; k < count; k++)
        if (k != best && scores[k] > second) second = scores[k];
    return er_sat32((int64_t)scores[best] - second);
}

/* Take one labelled sample whose scores lie there and which looks like a class; whether its label is not to be learned. */
static int doubts(const er_pupil *pupil, int32_t looks, int32_t label) {
    const er_lessons *r = &pupil->plan;
    const int32_t margin = margin_of(r->scores, looks, pupil->at->known);
    const int sure = *r->agreed == r->margins && margin >= bar(r);
    int16_t *told = r->told + (size_t)looks * (size_t)r->votes;
    int32_t same = 0;
    if (looks == label) {
        for (int32_t i = 1; i < r->margins; i++) r->margin[i - 1] = r->margin[i];
        r->margin[r->margins - 1] = margin;
        *r->agreed = (int16_t)(*r->agreed < r->margins ? *r->agreed + 1 : r->margins);
    }
    if (!sure) return 0;
    for (int32_t i = 1; i < r->votes; i++) told[i - 1] = told[i];
    told[r->votes - 1] = (int16_t)label;
    for (int32_t i = 0; i < r->votes; i++) same += told[i] == label;
    return looks != label && 2 * same <= r->votes;
}

er_report er_feedback(const er_pupil *pupil, const int16_t *q, int32_t label, enum er_level level) {
    const er_lessons *r = &pupil->plan;
    if (!r->margins || label >= r->factory || pupil->at->known < 2) return er_lesson(pupil, q, label, level);
    er_net_run(pupil->net, q);
    const int32_t looks = answer(pupil);
    if (!doubts(pupil, looks, label)) return er_lesson(pupil, q, label, level);
    pupil->at->lessons++;
    return (er_report){.label = looks, .p = -1, .aside = 1};
}

/* No vote for a class or about it. */
static void forget_votes(const er_lessons *r, int32_t label) {
    for (int32_t k = 0; k < r->classes; k++)
        for (int32_t i = 0; i < r->votes; i++) {
            int16_t *told = r->told + (size_t)k * (size_t)r->votes + i;
            if (k == label || *told == label) *told = EMPTY;
        }
}

/* What the weights of one class have learned. */
static void forget_column(const er_plastic *p, int32_t label) {
    for (int32_t row = 0; row < p->rows; row++) {
        const size_t at = (size_t)row * (size_t)p->columns + (size_t)label;
        er_clear_weight(p, at);
        if (p->growth) p->growth[at] = 0;
    }
}

void er_forget(const er_pupil *pupil, int32_t label) {
    const er_plan *plan = &pupil->net->plan;
    const er_lessons *r = &pupil->plan;
    for (int32_t mean = 0; plan->capacity && mean < plan->means; mean++) {
        const size_t row = (size_t)mean * (size_t)plan->capacity + (size_t)label;
        memset(plan->sums + row * (size_t)plan->width, 0, (size_t)plan->width * sizeof *plan->sums);
        plan->counts[row] = plan->bias[row] = 0;
    }
    if (plan->capacity) refresh_means(plan);
    for (int32_t i = 0; i < r->capacity; i++)
        if (r->label[i] == label) r->label[i] = EMPTY;
    for (int32_t i = 0; i < r->recents; i++)
        if (r->recent[i] == label) r->recent[i] = EMPTY;
    if (r->margins) forget_votes(r, label);
    if (pupil->learner && pupil->learner->rule.kind == ER_INNER) forget_column(&pupil->learner->plastic[0], label);
}

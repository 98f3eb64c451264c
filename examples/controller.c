/* A whole controller in C, with ZeroMQ and MessagePack alone (docs/wire.md): the beam where geometry says, within its
 * bounds, and all groups that are reserved. Debian has gcc, pkg-config, libzmq3-dev, libmsgpack-dev. To build it:
 *   gcc -std=c11 -Wall -Wextra -Werror -O2 controller.c -o controller $(pkg-config --cflags --libs libzmq msgpack)
 * (where pkg-config knows no msgpack, it is msgpack-c). In one terminal  ntn-twin run quickstart --seat ue=external
 * and in another  ./controller [ADDRESS [SEAT [SILENCE_S]]] */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <err.h>
#include <msgpack.h>
#include <stdarg.h>
#include <stdbool.h>
#include <time.h>
#include <zmq.h>

#define get(map, key, type) find(map, key, MSGPACK_OBJECT_##type)
typedef const msgpack_object *Value; /* part of a message; NULL: it is not there, or not of the type we expect */

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    return clock_gettime(clock, &t), t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static bool is(Value text, const char *word) {
    return text && text->via.str.size == strlen(word) && memcmp(text->via.str.ptr, word, strlen(word)) == 0;
}

static Value find(Value map, const char *key, msgpack_object_type type) { /* keys we do not know are passed over */
    for (uint32_t i = 0; map && i < map->via.map.size; i++) {
        Value name = &map->via.map.ptr[i].key, value = &map->via.map.ptr[i].val;
        if (name->type == MSGPACK_OBJECT_STR && is(name, key)) return value->type == type ? value : NULL;
    }
    return NULL;
}

static int64_t whole(Value map, const char *key) {
    return get(map, key, POSITIVE_INTEGER) ? get(map, key, POSITIVE_INTEGER)->via.i64 : -1;
}

/* Copy an array, if it is there and there is room; how many bytes it has, little-endian as those of this machine. */
static size_t take(Value bundle, const char *name, const char *dtype, void *into, size_t room) {
    Value array = get(bundle, name, MAP), data = get(array, "data", BIN);
    size_t n_bytes = data && is(get(array, "dtype", STR), dtype) ? data->via.bin.size : 0;
    return n_bytes && n_bytes <= room ? memcpy(into, data->via.bin.ptr, n_bytes), n_bytes : 0;
}

/* Send a message: { map and [ list of so many, s text, i int64_t, o a Value as it came, b bytes and their number. */
static void tell(void *socket, const char *format, ...) {
    msgpack_sbuffer body = {0};
    msgpack_packer to = {&body, msgpack_sbuffer_write};
    va_list rest;
    va_start(rest, format);
    for (const char *data; *format; format++)
        switch (*format) {
            case '{': msgpack_pack_map(&to, va_arg(rest, int)); break;
            case '[': msgpack_pack_array(&to, va_arg(rest, int)); break;
            case 's': data = va_arg(rest, char *); msgpack_pack_str_with_body(&to, data, strlen(data)); break;
            case 'i': msgpack_pack_int64(&to, va_arg(rest, int64_t)); break;
            case 'o': msgpack_pack_object(&to, *va_arg(rest, Value)); break;
            case 'b': data = va_arg(rest, void *); msgpack_pack_bin_with_body(&to, data, va_arg(rest, size_t)); break;
        }
    va_end(rest);
    zmq_send(socket, body.data, body.size, ZMQ_DONTWAIT); /* a twin that does not read must not hold us up */
    msgpack_sbuffer_destroy(&body);
}

int main(int argc, char **argv) {
    const char *address = argc > 1 ? argv[1] : "tcp://127.0.0.1:5555", *seat = argc > 2 ? argv[2] : "ue";
    char host[64] = "", next[96], topic[64];
    int port = 0, silence_s = argc > 3 ? atoi(argv[3]) : 60, n_answered = 0;
    sscanf(address, "tcp://%63[^:]:%d", host, &port);
    snprintf(next, sizeof next, "tcp://%s:%d", host, port + 1); /* what we say goes to the port after */
    snprintf(topic, sizeof topic, "%s.", seat); /* with the dot: ue is not to hear ue2 */
    void *context = zmq_ctx_new();
    zmq_ctx_set(context, ZMQ_BLOCKY, false); /* at the end nobody is waited for */
    void *hear = zmq_socket(context, ZMQ_SUB), *say = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(hear, ZMQ_SUBSCRIBE, topic, strlen(topic));
    if (zmq_connect(hear, address) || zmq_connect(say, next)) errx(2, "%s is no tcp://HOST:PORT", address);
    tell(say, "{ss si ss ss", 4, "kind", "hello", "protocol", INT64_C(1), "agent", seat, "client", "controller.c");
    zmq_pollitem_t either[] = {{say, 0, ZMQ_POLLIN, 0}, {hear, 0, ZMQ_POLLIN, 0}};
    msgpack_unpacked heard = {0};
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    for (bool welcomed = false;;) {
        int64_t waiting = now_ns(CLOCK_MONOTONIC);
        if (zmq_poll(either, 2, silence_s * 1000L) <= 0) errx(1, "no word from the twin for %d s", silence_s);
        do zmq_msg_recv(&frame, either[0].revents ? say : hear, 0); while (zmq_msg_more(&frame)); /* the body is last */
        int64_t received = now_ns(CLOCK_MONOTONIC);
        size_t size = zmq_msg_size(&frame), offset = 0;
        if (msgpack_unpack_next(&heard, zmq_msg_data(&frame), size, &offset) != MSGPACK_UNPACK_SUCCESS) continue;
        Value message = heard.data.type == MSGPACK_OBJECT_MAP ? &heard.data : NULL, kind = get(message, "kind", STR);
        Value run = get(message, "run", STR), last = get(message, "last", BOOLEAN), why = get(message, "reason", STR);
        if (is(kind, "refused") && why) errx(1, "refused: %.*s", (int)why->via.str.size, why->via.str.ptr);
        if (is(kind, "stop") || (is(kind, "observation") && last && last->via.boolean)) break;
        if (is(kind, "welcome")) { /* our subscription has arrived, and here is what a policy may want to know */
            if (whole(message, "protocol") != 1) errx(1, "the twin does not speak protocol 1");
            tell(say, "{ss ss", 2, "kind", "ready", "agent", seat), welcomed = true;
        }
        if (!is(kind, "observation") || !run || !welcomed) continue;
        Value values = get(message, "values", MAP), due_us = get(get(message, "timing", MAP), "deadline_us", FLOAT64);
        bool late = due_us && received > whole(message, "t_mono_ns") + due_us->via.f64 * 1e3;
        if (late && zmq_poll(&either[1], 1, 0) > 0) continue; /* nobody wants this answer, and a newer question waits */
        double beam_deg[2] = {90, 90};
        uint8_t used_rb[64] = {0};
        take(values, "predicted_beam_deg", "float64", beam_deg, sizeof beam_deg);
        size_t n_groups = take(values, "reserved_rb", "bool", used_rb, sizeof used_rb);
        int64_t decoded = now_ns(CLOCK_MONOTONIC), began_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < 2; i++) beam_deg[i] = beam_deg[i] < 0 ? 0 : beam_deg[i] > 180 ? 180 : beam_deg[i];
        int64_t acted = now_ns(CLOCK_MONOTONIC), cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - began_ns;
        tell(say, "{ss ss so si s{s{ss s[i sb} s{ss s[i sb}} s{si si si si si si}}", 6,
             "kind", "answer", "agent", seat, "run", run, "slot", whole(message, "slot"), "values", 2,
             "rx_beam_deg", 3, "dtype", "float64", "shape", 1, INT64_C(2), "data", beam_deg, sizeof beam_deg,
             "used_rb", 3, "dtype", "bool", "shape", 1, (int64_t)n_groups, "data", used_rb, n_groups,
             "stamps", 6, "waiting", waiting, "received", received, "decoded", decoded, "acted", acted,
             "cpu_ns", cpu_ns, "replied", now_ns(CLOCK_MONOTONIC));
        n_answered++;
    }
    printf("%d observations answered\n", n_answered);
    zmq_msg_close(&frame), msgpack_unpacked_destroy(&heard);
    return zmq_close(hear), zmq_close(say), zmq_ctx_term(context);
}

/* The sink: the server that every contestant sends to.
 *
 * Rule: it must never be the bottleneck, so it does nothing but HTTP/1.1: it reads a request to its end, keeps the
 * body, and answers 200, at once or after a delay. sink.py counts the messages in the bodies afterwards. The sink
 * knows nothing of gzip or JSON. It listens on loopback, prints its port, and exits when its standard input closes.
 *
 * Its own addresses are GET /_sink/reset, statistics, bodies, latency/<ms>, stall/<0|1>.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS 4096
#define KEPT_LIMIT (1ull << 30)
#define ANSWER "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"success\":true}"

struct connection {
  char *input;
  size_t room, start, end;
  unsigned generation;
};

struct waiting {
  int64_t due;
  int fd;
  unsigned generation;
};

static struct connection connections[CONNECTIONS];
static struct waiting *answers; /* a ring: the delay is the same for all, so that first come is first due */
static size_t answers_room = 1024, answers_first, answers_count;
static char *kept;
static size_t kept_room, kept_size;
static int64_t latency_ns, first_ns, last_ns;
static uint64_t requests, answered, received_bytes, lost_bodies;
static int stalled;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int64_t cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void write_all(int fd, const char *bytes, size_t length) {
  while (length) {
    ssize_t wrote = send(fd, bytes, length, MSG_NOSIGNAL);
    if (wrote > 0) {
      bytes += wrote;
      length -= wrote;
    } else if (wrote < 0 && errno == EAGAIN) {
      struct pollfd writable = {.fd = fd, .events = POLLOUT};
      poll(&writable, 1, 1000);
    } else if (!(wrote < 0 && errno == EINTR)) {
      return; /* the client went away: its next event closes the connection */
    }
  }
}

/* Each body is kept behind eight bytes: its length, and whether it was compressed. */
static void keep_body(const char *body, uint32_t length, uint32_t compressed) {
  if (kept_size + length + 8 > KEPT_LIMIT) {
    lost_bodies++;
    return;
  }
  if (kept_size + length + 8 > kept_room) {
    kept_room = (kept_size + length + 8) * 2;
    kept = realloc(kept, kept_room);
    if (!kept) abort();
  }
  uint32_t head[2] = {htonl(length), htonl(compressed)};
  memcpy(kept + kept_size, head, 8);
  memcpy(kept + kept_size + 8, body, length);
  kept_size += length + 8;
}

static void answer(int fd) {
  write_all(fd, ANSWER, sizeof ANSWER - 1);
  answered++;
  last_ns = now();
}

static void answer_later(int fd) {
  if (answers_count == answers_room) {
    struct waiting *larger = malloc(sizeof *larger * answers_room * 2);
    for (size_t i = 0; i < answers_count; i++) larger[i] = answers[(answers_first + i) % answers_room];
    free(answers);
    answers = larger;
    answers_first = 0;
    answers_room *= 2;
  }
  answers[(answers_first + answers_count++) % answers_room] =
      (struct waiting){now() + latency_ns, fd, connections[fd].generation};
}

static void answer_due(void) {
  while (answers_count && !stalled && answers[answers_first].due <= now()) {
    struct waiting due = answers[answers_first];
    answers_first = (answers_first + 1) % answers_room;
    answers_count--;
    if (connections[due.fd].generation == due.generation) answer(due.fd);
  }
}

static void tell(int fd, const char *body, size_t length) {
  char head[128];
  int size = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", length);
  write_all(fd, head, size);
  write_all(fd, body, length);
}

static void reset(void) {
  requests = answered = received_bytes = lost_bodies = 0;
  kept_size = 0;
  first_ns = last_ns = 0;
}

static void execute(int fd, const char *order) {
  char text[512] = "{}";
  size_t length = 2;
  if (!strncmp(order, "reset", 5)) reset();
  else if (!strncmp(order, "latency/", 8)) latency_ns = atoll(order + 8) * 1000000ll;
  else if (!strncmp(order, "stall/", 6)) stalled = atoi(order + 6);
  else if (!strncmp(order, "bodies", 6)) return tell(fd, kept, kept_size);
  else if (!strncmp(order, "statistics", 10))
    length = snprintf(text, sizeof text,
                      "{\"requests\":%llu,\"answered\":%llu,\"bytes\":%llu,\"lost_bodies\":%llu,"
                      "\"first_ns\":%lld,\"last_ns\":%lld,\"cpu_ns\":%lld}",
                      (unsigned long long)requests, (unsigned long long)answered, (unsigned long long)received_bytes,
                      (unsigned long long)lost_bodies, (long long)first_ns, (long long)last_ns, (long long)cpu_ns());
  tell(fd, text, length);
}

static void take(int fd, const char *head, size_t size, const char *body, size_t length, int compressed) {
  static const char own[] = " /_sink/";
  const char *path = memchr(head, ' ', size);
  if (path && !strncmp(path, own, sizeof own - 1)) return execute(fd, path + sizeof own - 1);
  if (!requests++) first_ns = now();
  received_bytes += size + length;
  keep_body(body, length, compressed);
  if (stalled || latency_ns || answers_count) answer_later(fd);
  else answer(fd);
}

static size_t content_length(const char *head, size_t size, int *compressed) {
  static const char length_name[] = "\r\ncontent-length:", encoding_name[] = "\r\ncontent-encoding:";
  size_t length = 0;
  for (const char *line = head; (line = memchr(line, '\r', head + size - line)); line++) {
    if (!strncasecmp(line, length_name, sizeof length_name - 1)) length = strtoull(line + sizeof length_name - 1, 0, 10);
    if (!strncasecmp(line, encoding_name, sizeof encoding_name - 1)) *compressed = 1;
  }
  return length;
}

static void take_whole_requests(int fd) {
  struct connection *c = &connections[fd];
  while (c->end > c->start) {
    char *head = c->input + c->start;
    char *blank = memmem(head, c->end - c->start, "\r\n\r\n", 4);
    if (!blank) return;
    size_t size = blank + 4 - head;
    int compressed = 0;
    size_t length = content_length(head, size, &compressed);
    if (c->end - c->start < size + length) return;
    take(fd, head, size, head + size, length, compressed);
    c->start += size + length;
  }
  c->start = c->end = 0;
}

/* True while the connection is in order. */
static int receive(int fd) {
  struct connection *c = &connections[fd];
  if (c->start && c->room - c->end < (256 << 10)) {
    memmove(c->input, c->input + c->start, c->end - c->start);
    c->end -= c->start;
    c->start = 0;
  }
  if (c->room - c->end < (256 << 10)) {
    c->room = c->room * 2 + (512 << 10);
    c->input = realloc(c->input, c->room);
    if (!c->input) abort();
  }
  ssize_t got = recv(fd, c->input + c->end, c->room - c->end, 0);
  if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR);
  c->end += got;
  take_whole_requests(fd);
  return 1;
}

static void welcome(int listener, int poller) {
  int yes = 1, fd = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  if (fd >= CONNECTIONS) {
    close(fd);
    return;
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  connections[fd].start = connections[fd].end = 0;
  connections[fd].generation++;
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void farewell(int fd) {
  connections[fd].generation++;
  close(fd);
}

/* epoll counts in milliseconds; the poller itself can be waited for in nanoseconds. */
static void wait_for_events(int poller) {
  struct pollfd ready = {.fd = poller, .events = POLLIN};
  if (!answers_count || stalled) {
    ppoll(&ready, 1, 0, 0);
    return;
  }
  int64_t left = answers[answers_first].due - now();
  if (left < 0) left = 0;
  struct timespec until = {left / 1000000000, left % 1000000000};
  ppoll(&ready, 1, &until, 0);
}

static int listen_on_loopback(void) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) {
    perror("sink");
    exit(1);
  }
  getsockname(listener, (struct sockaddr *)&address, &size);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return listener;
}

int main(void) {
  int poller = epoll_create1(EPOLL_CLOEXEC), listener = listen_on_loopback();
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
  answers = malloc(sizeof *answers * answers_room);
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  event.data.fd = STDIN_FILENO;
  epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);
  for (;;) {
    wait_for_events(poller);
    int count = epoll_wait(poller, events, 256, 0);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == STDIN_FILENO) return 0;
      if (fd == listener) welcome(listener, poller);
      else if (!receive(fd)) farewell(fd);
    }
    answer_due();
  }
}

/*
 * A stand-in for the calls of Event Tracing for Windows that a consumer makes (advapi32, sechost and tdh), which Wine has as
 * stubs or not at all. Structures come from the headers of mingw-w64, so that a wrong layout on the other side shows.
 *
 * As on Windows, an event is seen by the consumer when its buffer is flushed: on demand, or by the session's timer. CloseTrace
 * returns before ProcessTrace does, and events may still arrive in between.
 */
#define INITGUID
#define _ADVAPI32_
#define WMIAPI
#include <windows.h>
#include <evntrace.h>
#include <evntcons.h>
#include <tdh.h>
#include <stddef.h>

#define EXPORT __declspec(dllexport)
#define SESSIONS 8
#define PROVIDERS 4
#define NO_SIZE 0xfffffff0u

enum fault { WELL, NO_RESULTS, HUGE_RESULTS, UNREADABLE_RESULTS };

/* event is one DNS event, or a mark of EventWrite. */
struct event {
	struct event *next;
	GUID provider;
	USHORT id;
	ULONG pid;
	ULONGLONG keyword;
	LONGLONG time;
	enum fault fault;
	BYTE *name, *results;
	ULONG name_size, results_size;
};

struct queue {
	struct event *first, **end;
};

struct session {
	WCHAR name[128]; /* empty: none */
	ULONG generation, timer_ms;
	ULONGLONG buffered_since;
	GUID providers[PROVIDERS];
	ULONG enabled;
	struct queue buffered, ready;
	EVENT_TRACE_LOGFILEW consumer;
	BOOL opened, processing, closing;
};

static struct session sessions[SESSIONS];
static CRITICAL_SECTION lock;
static CONDITION_VARIABLE changed;
static ULONG hold_ms, registrations, delivered;
static char fail_name[32];
static ULONG fail_code;

/* The compiler makes calls of these, and there is no C library. */
void *memset(void *to, int c, size_t n)
{
	volatile char *p = to;

	while (n--)
		*p++ = (char)c;
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	volatile char *p = to;
	const char *q = from;

	while (n--)
		*p++ = *q++;
	return to;
}

static ULONG wide_length(const WCHAR *s)
{
	ULONG n = 0;

	while (s[n])
		n++;
	return n;
}

static BOOL same(const WCHAR *a, const WCHAR *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static BOOL same_guid(const GUID *a, const GUID *b)
{
	const BYTE *p = (const BYTE *)a, *q = (const BYTE *)b;
	ULONG i;

	for (i = 0; i < sizeof(*a); i++)
		if (p[i] != q[i])
			return FALSE;
	return TRUE;
}

/* failed says whether a test wants this call to fail, once. */
static ULONG failed(const char *name)
{
	ULONG i, code = fail_code;

	for (i = 0; name[i] && name[i] == fail_name[i]; i++)
		;
	if (!code || name[i] || fail_name[i])
		return 0;
	fail_code = 0;
	return code;
}

static void push(struct queue *q, struct event *e)
{
	if (!q->first)
		q->end = &q->first;
	e->next = NULL;
	*q->end = e;
	q->end = &e->next;
}

static struct event *pop(struct queue *q)
{
	struct event *e = q->first;

	if (e)
		q->first = e->next;
	return e;
}

static void drop(struct event *e)
{
	HeapFree(GetProcessHeap(), 0, e->name);
	HeapFree(GetProcessHeap(), 0, e->results);
	HeapFree(GetProcessHeap(), 0, e);
}

static void clear(struct queue *q)
{
	struct event *e;

	while ((e = pop(q)))
		drop(e);
}

static void flush(struct session *s)
{
	struct event *e;

	while ((e = pop(&s->buffered)))
		push(&s->ready, e);
	WakeAllConditionVariable(&changed);
}

static struct session *by_name(const WCHAR *name)
{
	int i;

	for (i = 0; name && *name && i < SESSIONS; i++)
		if (sessions[i].name[0] && same(sessions[i].name, name))
			return &sessions[i];
	return NULL;
}

/* A handle is a generation and an index: an old one means nothing. */
static struct session *by_handle(ULONGLONG h)
{
	ULONG i = (ULONG)(h & 0xff) - 1;

	if (i >= SESSIONS || sessions[i].generation != (ULONG)(h >> 8))
		return NULL;
	return &sessions[i];
}

static ULONGLONG handle(struct session *s)
{
	return (ULONGLONG)s->generation << 8 | (ULONGLONG)(s - sessions + 1);
}

EXPORT ULONG WINAPI StartTraceW(PTRACEHANDLE h, LPCWSTR name, PEVENT_TRACE_PROPERTIES p)
{
	ULONG i, error;
	struct session *s = NULL;

	if (!h || !name || !p || !(p->Wnode.Flags & WNODE_FLAG_TRACED_GUID) || !(p->LogFileMode & EVENT_TRACE_REAL_TIME_MODE))
		return ERROR_INVALID_PARAMETER;
	if (p->Wnode.BufferSize < sizeof(*p) + (wide_length(name) + 1) * sizeof(WCHAR) || p->LoggerNameOffset < sizeof(*p) ||
		p->LoggerNameOffset + (wide_length(name) + 1) * sizeof(WCHAR) > p->Wnode.BufferSize)
		return ERROR_BAD_LENGTH;
	EnterCriticalSection(&lock);
	error = failed("StartTraceW");
	if (!error && by_name(name))
		error = ERROR_ALREADY_EXISTS;
	for (i = 0; i < SESSIONS && !s; i++)
		if (!sessions[i].name[0] && !sessions[i].opened)
			s = &sessions[i];
	if (!error && !s)
		error = ERROR_NO_SYSTEM_RESOURCES;
	if (!error) {
		s->generation++;
		s->enabled = 0;
		s->timer_ms = p->FlushTimer ? p->FlushTimer * 1000 : 1000;
		for (i = 0; i < 127 && name[i]; i++)
			s->name[i] = name[i];
		s->name[i] = 0;
		memcpy((char *)p + p->LoggerNameOffset, name, (wide_length(name) + 1) * sizeof(WCHAR));
		*h = handle(s);
	}
	LeaveCriticalSection(&lock);
	return error;
}

EXPORT ULONG WINAPI EnableTraceEx2(TRACEHANDLE h, LPCGUID provider, ULONG code, UCHAR level, ULONGLONG any, ULONGLONG all,
	ULONG timeout, PENABLE_TRACE_PARAMETERS parameters)
{
	ULONG error;
	struct session *s;

	(void)level, (void)any, (void)all, (void)timeout, (void)parameters;
	EnterCriticalSection(&lock);
	s = by_handle(h);
	error = failed("EnableTraceEx2");
	if (!error && (!s || !s->name[0]))
		error = ERROR_INVALID_HANDLE;
	if (!error && code == EVENT_CONTROL_CODE_ENABLE_PROVIDER) {
		if (s->enabled == PROVIDERS)
			error = ERROR_NO_SYSTEM_RESOURCES;
		else
			s->providers[s->enabled++] = *provider;
	}
	LeaveCriticalSection(&lock);
	return error;
}

/* end makes a session vanish; its consumer returns by itself. */
static void end(struct session *s)
{
	flush(s);
	s->name[0] = 0;
	if (!s->opened)
		clear(&s->ready);
	WakeAllConditionVariable(&changed);
}

EXPORT ULONG WINAPI ControlTraceW(TRACEHANDLE h, LPCWSTR name, PEVENT_TRACE_PROPERTIES p, ULONG code)
{
	ULONG error;
	struct session *s;

	if (!p || p->Wnode.BufferSize < sizeof(*p))
		return ERROR_BAD_LENGTH;
	EnterCriticalSection(&lock);
	s = h ? by_handle(h) : by_name(name);
	error = failed("ControlTraceW");
	if (!error && (!s || !s->name[0]))
		error = ERROR_WMI_INSTANCE_NOT_FOUND;
	if (!error && code == EVENT_TRACE_CONTROL_STOP)
		end(s);
	else if (!error && code == EVENT_TRACE_CONTROL_FLUSH)
		flush(s);
	LeaveCriticalSection(&lock);
	return error;
}

EXPORT TRACEHANDLE WINAPI OpenTraceW(PEVENT_TRACE_LOGFILEW l)
{
	TRACEHANDLE h = INVALID_PROCESSTRACE_HANDLE;
	struct session *s;
	ULONG error;

	EnterCriticalSection(&lock);
	s = by_name(l->LoggerName);
	error = failed("OpenTraceW");
	if (!error && (!(l->ProcessTraceMode & PROCESS_TRACE_MODE_REAL_TIME) ||
		!(l->ProcessTraceMode & PROCESS_TRACE_MODE_EVENT_RECORD) || !l->EventRecordCallback))
		error = ERROR_INVALID_PARAMETER;
	if (!error && (!s || s->opened))
		error = ERROR_WMI_INSTANCE_NOT_FOUND;
	if (!error) {
		s->consumer = *l;
		s->opened = TRUE;
		s->closing = FALSE;
		h = handle(s);
	}
	LeaveCriticalSection(&lock);
	SetLastError(error);
	return h;
}

/* deliver calls the consumer for one event, without the lock. */
static void deliver(struct session *s, struct event *e)
{
	EVENT_RECORD r;

	memset(&r, 0, sizeof(r));
	r.EventHeader.Size = sizeof(r.EventHeader);
	r.EventHeader.ProcessId = e->pid;
	r.EventHeader.ThreadId = 1;
	r.EventHeader.TimeStamp.QuadPart = e->time;
	r.EventHeader.ProviderId = e->provider;
	r.EventHeader.EventDescriptor.Id = e->id;
	r.EventHeader.EventDescriptor.Keyword = e->keyword;
	r.UserContext = s->consumer.Context;
	r.UserData = e;
	r.UserDataLength = sizeof(*e);
	s->consumer.EventRecordCallback(&r);
	drop(e);
}

static void process(struct session *s)
{
	struct event *e;

	EnterCriticalSection(&lock);
	for (;;) {
		if (s->buffered.first && GetTickCount64() - s->buffered_since >= s->timer_ms)
			flush(s);
		e = pop(&s->ready);
		if (!e && (s->closing || !s->name[0]))
			break;
		if (!e) {
			SleepConditionVariableCS(&changed, &lock, 20);
			continue;
		}
		delivered++;
		LeaveCriticalSection(&lock);
		deliver(s, e);
		EnterCriticalSection(&lock);
	}
	LeaveCriticalSection(&lock);
}

static struct event *new_event(const GUID *provider, USHORT id, ULONG pid)
{
	struct event *e = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, sizeof(*e));
	FILETIME now;

	GetSystemTimeAsFileTime(&now);
	e->provider = *provider;
	e->id = id;
	e->pid = pid;
	e->time = (LONGLONG)now.dwHighDateTime << 32 | now.dwLowDateTime;
	return e;
}

EXPORT ULONG WINAPI ProcessTrace(PTRACEHANDLE h, ULONG n, LPFILETIME from, LPFILETIME to)
{
	struct session *s;
	ULONG hold, error;

	(void)from, (void)to;
	EnterCriticalSection(&lock);
	s = n == 1 ? by_handle(h[0]) : NULL;
	error = failed("ProcessTrace");
	if (!error && (!s || !s->opened || s->processing))
		error = ERROR_INVALID_HANDLE;
	if (!error)
		s->processing = TRUE;
	hold = hold_ms;
	LeaveCriticalSection(&lock);
	if (error)
		return error;
	process(s);
	if (hold) {
		/* What still comes after CloseTrace has returned. */
		Sleep(hold);
		deliver(s, new_event(&s->providers[0], 0, 0));
	}
	EnterCriticalSection(&lock);
	s->processing = FALSE;
	if (s->closing) {
		s->opened = FALSE;
		clear(&s->ready);
	}
	LeaveCriticalSection(&lock);
	return 0;
}

EXPORT ULONG WINAPI CloseTrace(TRACEHANDLE h)
{
	ULONG error = 0;
	struct session *s;

	EnterCriticalSection(&lock);
	s = by_handle(h);
	if (!s || !s->opened || s->closing) {
		error = ERROR_INVALID_HANDLE;
	} else {
		s->closing = TRUE;
		if (s->processing) {
			error = ERROR_CTX_CLOSE_PENDING;
		} else {
			s->opened = FALSE;
			clear(&s->ready);
		}
		WakeAllConditionVariable(&changed);
	}
	LeaveCriticalSection(&lock);
	return error;
}

/* post puts an event into every session that wants its provider. It takes the event. */
static void post(struct event *template)
{
	int i;
	ULONG k;

	EnterCriticalSection(&lock);
	for (i = 0; i < SESSIONS; i++) {
		struct session *s = &sessions[i];
		BOOL wanted = FALSE;
		struct event *e;

		for (k = 0; s->name[0] && k < s->enabled; k++)
			wanted = wanted || same_guid(&s->providers[k], &template->provider);
		if (!wanted)
			continue;
		e = new_event(&template->provider, template->id, template->pid);
		e->keyword = template->keyword;
		e->fault = template->fault;
		e->name_size = template->name_size;
		e->results_size = template->results_size;
		e->name = HeapAlloc(GetProcessHeap(), 0, e->name_size + 1);
		e->results = HeapAlloc(GetProcessHeap(), 0, e->results_size + 1);
		memcpy(e->name, template->name, e->name_size);
		memcpy(e->results, template->results, e->results_size);
		if (!s->buffered.first)
			s->buffered_since = GetTickCount64();
		push(&s->buffered, e);
	}
	LeaveCriticalSection(&lock);
	HeapFree(GetProcessHeap(), 0, template);
}

/* What a program calls to raise events of its own. */
static GUID registered[64];

ULONG WINAPI EventRegister(LPCGUID provider, PENABLECALLBACK callback, PVOID context, PREGHANDLE h)
{
	ULONG error, i;

	(void)callback, (void)context;
	EnterCriticalSection(&lock);
	error = failed("EventRegister");
	for (i = 0; i < 64 && (registered[i].Data1 || registered[i].Data2); i++)
		;
	if (!error && i == 64)
		error = ERROR_NO_SYSTEM_RESOURCES;
	if (!error) {
		registrations++;
		registered[i] = *provider;
		*h = i + 1;
	}
	LeaveCriticalSection(&lock);
	return error;
}

ULONG WINAPI EventWrite(REGHANDLE h, PCEVENT_DESCRIPTOR d, ULONG n, PEVENT_DATA_DESCRIPTOR data)
{
	struct event *e;

	(void)n, (void)data;
	if (h < 1 || h > 64)
		return ERROR_INVALID_HANDLE;
	e = new_event(&registered[h - 1], d->Id, GetCurrentProcessId());
	e->keyword = d->Keyword;
	post(e);
	return 0;
}

ULONG WINAPI EventUnregister(REGHANDLE h)
{
	GUID none = {0};

	if (h < 1 || h > 64)
		return ERROR_INVALID_HANDLE;
	EnterCriticalSection(&lock);
	registered[h - 1] = none;
	registrations--;
	LeaveCriticalSection(&lock);
	return 0;
}

static BOOL property(PEVENT_RECORD r, PPROPERTY_DATA_DESCRIPTOR d, const BYTE **at, ULONG *size)
{
	struct event *e = r->UserData;
	const WCHAR *name = (const WCHAR *)(ULONG_PTR)d->PropertyName;

	if (!same_guid(&e->provider, &r->EventHeader.ProviderId))
		return FALSE;
	if (same(name, L"QueryName")) {
		*at = e->name;
		*size = e->name_size;
		return TRUE;
	}
	if (same(name, L"QueryResults") && e->fault != NO_RESULTS) {
		*at = e->results;
		*size = e->fault == HUGE_RESULTS ? NO_SIZE : e->results_size;
		return TRUE;
	}
	return FALSE;
}

EXPORT ULONG WINAPI TdhGetPropertySize(PEVENT_RECORD r, ULONG contexts, PTDH_CONTEXT context, ULONG n,
	PPROPERTY_DATA_DESCRIPTOR d, ULONG *size)
{
	const BYTE *at;

	(void)contexts, (void)context;
	if (n != 1 || d->ArrayIndex != ~0u)
		return ERROR_INVALID_PARAMETER;
	return property(r, d, &at, size) ? 0 : ERROR_NOT_FOUND;
}

EXPORT ULONG WINAPI TdhGetProperty(PEVENT_RECORD r, ULONG contexts, PTDH_CONTEXT context, ULONG n,
	PPROPERTY_DATA_DESCRIPTOR d, ULONG room, PBYTE to)
{
	const BYTE *at;
	ULONG size;

	(void)contexts, (void)context;
	if (n != 1 || d->ArrayIndex != ~0u)
		return ERROR_INVALID_PARAMETER;
	if (!property(r, d, &at, &size))
		return ERROR_NOT_FOUND;
	if (room < size)
		return ERROR_INSUFFICIENT_BUFFER;
	if (((struct event *)r->UserData)->fault == UNREADABLE_RESULTS && at == ((struct event *)r->UserData)->results)
		return ERROR_INVALID_DATA;
	memcpy(to, at, size);
	return 0;
}

/* The side of tests. */

/* FakePost raises an event of the DNS client with properties of any bytes. */
EXPORT void WINAPI FakePost(const BYTE *name, ULONG name_size, const BYTE *results, ULONG results_size, ULONG pid, ULONG fault)
{
	static const GUID dns = {0x1C95126E, 0x7EEA, 0x49A9, {0xA3, 0xFE, 0xA3, 0x78, 0xB0, 0x3D, 0xDB, 0x4D}};
	struct event *e = new_event(&dns, 3008, pid);

	e->keyword = 0x8000000000000000ull;
	e->fault = fault;
	e->name = (BYTE *)name;
	e->name_size = name_size;
	e->results = (BYTE *)results;
	e->results_size = results_size;
	post(e);
}

/* FakeHold makes ProcessTrace return so much later than it could, after one more event. */
EXPORT void WINAPI FakeHold(ULONG ms)
{
	hold_ms = ms;
}

/* FakeFail makes the next call of the function fail with the code. */
EXPORT void WINAPI FakeFail(const char *name, ULONG code)
{
	ULONG i;

	EnterCriticalSection(&lock);
	for (i = 0; i + 1 < sizeof(fail_name) && name[i]; i++)
		fail_name[i] = name[i];
	fail_name[i] = 0;
	fail_code = code;
	LeaveCriticalSection(&lock);
}

/* FakeCount counts what there is: 0 sessions, 1 open traces, 2 registered providers, 3 events delivered. */
EXPORT ULONG WINAPI FakeCount(ULONG what)
{
	ULONG i, n = what == 2 ? registrations : what == 3 ? delivered : 0;

	for (i = 0; i < SESSIONS; i++)
		n += what == 0 ? sessions[i].name[0] != 0 : what == 1 ? sessions[i].opened : 0;
	return n;
}

/* FakeLayout says what the headers of the SDK say about structures. */
EXPORT ULONG WINAPI FakeLayout(ULONG what)
{
	static const ULONG layout[] = {
		sizeof(EVENT_TRACE_PROPERTIES), sizeof(EVENT_TRACE), sizeof(TRACE_LOGFILE_HEADER), sizeof(EVENT_TRACE_LOGFILEW),
		sizeof(EVENT_RECORD), sizeof(PROPERTY_DATA_DESCRIPTOR), sizeof(EVENT_DESCRIPTOR),
		offsetof(EVENT_TRACE_PROPERTIES, LogFileMode), offsetof(EVENT_TRACE_PROPERTIES, LoggerNameOffset),
		offsetof(EVENT_TRACE_LOGFILEW, ProcessTraceMode), offsetof(EVENT_TRACE_LOGFILEW, EventRecordCallback),
		offsetof(EVENT_TRACE_LOGFILEW, Context), offsetof(EVENT_RECORD, UserData), offsetof(EVENT_RECORD, UserContext),
		offsetof(EVENT_RECORD, EventHeader.ProviderId), offsetof(EVENT_RECORD, EventHeader.EventDescriptor),
	};

	return what < sizeof(layout) / sizeof(layout[0]) ? layout[what] : 0;
}

BOOL WINAPI DllMain(HINSTANCE instance, DWORD reason, LPVOID reserved)
{
	(void)instance, (void)reserved;
	if (reason == DLL_PROCESS_ATTACH) {
		InitializeCriticalSection(&lock);
		InitializeConditionVariable(&changed);
	}
	return TRUE;
}

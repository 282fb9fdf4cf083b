/* The control codes of tests, and the generator. */
#include "state.h"

/* generate sends the info of the next id. The lock is held. */
void generate(void)
{
	struct generator *g = &state.generator;
	struct chunk *c;
	ULONG i;

	if (!g->info || g->next > g->last)
		return;
	c = new_chunk(0, g->info, g->length);
	if (!c)
		return;
	for (i = 0; i < 8; i++)
		c->data[V2_INFO_HEADER + i] = (UCHAR)(g->next >> (8 * i));
	g->next++;
	InsertTailList(&state.stream, &c->link);
}

static void stop_generator(void)
{
	if (state.generator.info)
		ExFreePool(state.generator.info);
	state.generator.info = NULL;
	state.quiet = FALSE;
}

static NTSTATUS start_generator(const UCHAR *in, ULONG length)
{
	struct generator *g = &state.generator;
	ULONG window;

	if (length < 12 + V2_INFO_HEADER + 8 || (in[12] != V2_CONNECTION_V4 && in[12] != V2_CONNECTION_V6))
		return STATUS_INVALID_PARAMETER;
	stop_generator();
	g->length = length - 12;
	g->info = ExAllocatePool(NonPagedPool, g->length);
	if (!g->info)
		return STATUS_INSUFFICIENT_RESOURCES;
	copy(g->info, in + 12, g->length);
	g->next = 1;
	g->last = number(in, 8);
	state.quiet = TRUE;
	for (window = number(in + 8, 4); window; window--)
		generate();
	return STATUS_SUCCESS;
}

static void reset(void)
{
	ULONG i;
	UCHAR version[4];

	free_chunks(&state.stream);
	free_chunks(&state.requests);
	free_chunks(&state.given);
	free_chunks(&state.answers);
	free_chunks(&state.stats);
	free_chunks(&state.records);
	forget_expectations();
	stop_generator();
	copy(version, state.config.version, sizeof(version));
	for (i = 0; i < sizeof(state.config); i++)
		((UCHAR *)&state.config)[i] = 0;
	copy(state.config.version, version, sizeof(version));
	state.config.timeout_ms = 500;
	for (i = 0; i < sizeof(state.report); i++)
		((UCHAR *)&state.report)[i] = 0;
}

static NTSTATUS put(LIST_ENTRY *list, ULONGLONG id, const UCHAR *data, ULONG length)
{
	struct chunk *c = new_chunk(id, data, length);

	if (!c)
		return STATUS_INSUFFICIENT_RESOURCES;
	InsertTailList(list, &c->link);
	return STATUS_SUCCESS;
}

/* put_request also notes where the protocol wants no verdict: the process is known already. */
static NTSTATUS put_request(const UCHAR *in, ULONG length)
{
	ULONGLONG id;

	if (length < V1_REQUEST_SIZE)
		return STATUS_INVALID_PARAMETER;
	id = number(in + V1_REQUEST_ID, 4);
	if (number(in + V1_REQUEST_PID, 8) || in[V1_REQUEST_FLAGS] & V1_FLAG_SOCKET_AUTH)
		forbid(id);
	return put(&state.requests, id, in, length);
}

static NTSTATUS put_stats(const UCHAR *in, ULONG length)
{
	NTSTATUS status = STATUS_SUCCESS;

	for (; length >= V1_STAT_SIZE && status == STATUS_SUCCESS; length -= V1_STAT_SIZE, in += V1_STAT_SIZE)
		status = put(&state.stats, 0, in, V1_STAT_SIZE);
	return length ? STATUS_INVALID_PARAMETER : status;
}

/* take gives out as many whole records as fit. */
static ULONG take(UCHAR *to, ULONG room)
{
	ULONG n = 0;

	while (!IsListEmpty(&state.records)) {
		struct chunk *c = CONTAINING_RECORD(state.records.Flink, struct chunk, link);
		ULONG what = (ULONG)c->id;

		if (n + 8 + c->length > room)
			break;
		copy(to + n, &what, 4);
		copy(to + n + 4, &c->length, 4);
		copy(to + n + 8, c->data, c->length);
		n += 8 + c->length;
		RemoveEntryList(&c->link);
		ExFreePool(c);
	}
	return n;
}

static NTSTATUS obey(ULONG function, UCHAR *buffer, ULONG in, ULONG out, ULONG_PTR *length)
{
	switch (function) {
	case RIG_RESET:
		reset();
		return STATUS_SUCCESS;
	case RIG_CONFIG:
		if (in != sizeof(state.config))
			return STATUS_INVALID_PARAMETER;
		copy(&state.config, buffer, sizeof(state.config));
		return STATUS_SUCCESS;
	case RIG_PUSH:
		return put(&state.stream, 0, buffer, in);
	case RIG_REQUEST:
		return put_request(buffer, in);
	case RIG_EXPECT:
		return expect(buffer, in);
	case RIG_TAKE:
		*length = take(buffer, out);
		return STATUS_SUCCESS;
	case RIG_REPORT:
		if (out < sizeof(state.report))
			return STATUS_BUFFER_TOO_SMALL;
		copy(buffer, &state.report, sizeof(state.report));
		*length = sizeof(state.report);
		return STATUS_SUCCESS;
	case RIG_ANSWER:
		return in ? put(&state.answers, buffer[0], buffer + 1, in - 1) : STATUS_INVALID_PARAMETER;
	case RIG_STATS:
		return put_stats(buffer, in);
	case RIG_GENERATE:
		return start_generator(buffer, in);
	}
	return STATUS_NOT_IMPLEMENTED;
}

NTSTATUS rig_control(IRP *irp, ULONG_PTR *length)
{
	IO_STACK_LOCATION *at = IoGetCurrentIrpStackLocation(irp);
	ULONG code = at->Parameters.DeviceIoControl.IoControlCode, function = code >> 2 & 0xfff;
	NTSTATUS status;
	KIRQL irql;

	if (code != RIG_CODE(function))
		return STATUS_NOT_IMPLEMENTED;
	KeAcquireSpinLock(&state.lock, &irql);
	status = obey(function, irp->AssociatedIrp.SystemBuffer, at->Parameters.DeviceIoControl.InputBufferLength,
		at->Parameters.DeviceIoControl.OutputBufferLength, length);
	KeReleaseSpinLock(&state.lock, irql);
	return status;
}

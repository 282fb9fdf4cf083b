/* Judges what the client sends: sizes, known blocks and codes, and the numbers of verdicts. */
#include "state.h"

static int is_any(int number, const signed char *list, ULONG length)
{
	while (length--)
		if (list[length] == number)
			return 1;
	return 0;
}

#define IS_ANY(number, list) is_any(number, list, sizeof(list))

static ULONG text(char *to, ULONG at, const char *from)
{
	while (*from && at + 1 < sizeof(state.report.first))
		to[at++] = *from++;
	to[at] = 0;
	return at;
}

static ULONG decimal(char *to, ULONG at, LONGLONG n)
{
	char digits[24];
	ULONG i = sizeof(digits) - 1;
	ULONGLONG left = n < 0 ? -(ULONGLONG)n : (ULONGLONG)n;

	digits[i] = 0;
	do
		digits[--i] = '0' + left % 10;
	while (left /= 10);
	if (n < 0)
		digits[--i] = '-';
	return text(to, at, digits + i);
}

/* complain keeps what went wrong first. */
static void complain(const char *what, ULONGLONG id, LONG number, const char *wanted)
{
	char *to = state.report.first;
	ULONG at = 0;

	if (to[0])
		return;
	at = text(to, at, what);
	at = text(to, at, ": id ");
	at = decimal(to, at, id);
	at = text(to, at, ", number ");
	at = decimal(to, at, number);
	if (wanted) {
		at = text(to, at, ", expected ");
		text(to, at, wanted);
	}
}

void illegal(const char *what, ULONGLONG id, LONG number)
{
	state.report.illegal++;
	complain(what, id, number, NULL);
}

void record(ULONG what, const UCHAR *data, ULONG length)
{
	struct chunk *c = state.quiet ? NULL : new_chunk(what, data, length);

	if (c)
		InsertTailList(&state.records, &c->link);
}

static struct expectation *find(ULONGLONG id)
{
	LIST_ENTRY *e;

	for (e = state.expectations.Flink; e != &state.expectations; e = e->Flink) {
		struct expectation *x = CONTAINING_RECORD(e, struct expectation, link);

		if (x->id == id)
			return x;
	}
	return NULL;
}

static NTSTATUS add(ULONGLONG id, int verdict)
{
	struct expectation *x = find(id);

	if (!x) {
		x = ExAllocatePool(NonPagedPool, sizeof(*x));
		if (!x)
			return STATUS_INSUFFICIENT_RESOURCES;
		InsertTailList(&state.expectations, &x->link);
	}
	x->id = id;
	x->verdict = verdict;
	x->answered = FALSE;
	if (verdict >= 0)
		state.report.waiting++;
	return STATUS_SUCCESS;
}

/* expect notes what a test wants for an id; the verdict has the name that facts.h gives it. */
NTSTATUS expect(const UCHAR *in, ULONG length)
{
	ULONG i, n;

	if (length < 8)
		return STATUS_INVALID_PARAMETER;
	for (i = 0; i < sizeof(verdicts) / sizeof(verdicts[0]); i++) {
		for (n = 0; n < length - 8 && verdicts[i].name[n] == (char)in[8 + n]; n++)
			;
		if (n == length - 8 && !verdicts[i].name[n])
			return add(number(in, 8), i);
	}
	return STATUS_NOT_FOUND;
}

/* forbid notes that no verdict may come for an id. */
void forbid(ULONGLONG id)
{
	add(id, -1);
}

void forget_expectations(void)
{
	while (!IsListEmpty(&state.expectations))
		ExFreePool(CONTAINING_RECORD(RemoveHeadList(&state.expectations), struct expectation, link));
}

void check_verdict(ULONGLONG id, int number, BOOLEAN v1)
{
	struct expectation *x;

	state.report.verdicts++;
	if (v1 ? !IS_ANY(number, v1_legal) : !IS_ANY(number, v2_legal)) {
		illegal("no verdict has this number", id, number);
		return;
	}
	if (state.quiet) {
		generate();
		return;
	}
	x = find(id);
	if (!x) {
		state.report.unexpected++;
		return;
	}
	if (x->verdict < 0) {
		illegal("no verdict may be given for this request", id, number);
		return;
	}
	if (x->answered) {
		illegal("second verdict for one packet", id, number);
		return;
	}
	state.report.waiting--;
	x->answered = TRUE;
	if (number == (v1 ? verdicts[x->verdict].v1 : verdicts[x->verdict].v2)) {
		state.report.right++;
		return;
	}
	state.report.wrong++;
	complain("wrong verdict", id, number, verdicts[x->verdict].name);
}

/* reply puts what a test prepared for a block into the stream. */
static void reply(UCHAR block)
{
	LIST_ENTRY *e;

	for (e = state.answers.Flink; e != &state.answers; e = e->Flink) {
		struct chunk *c = CONTAINING_RECORD(e, struct chunk, link);

		if (c->id == block) {
			RemoveEntryList(e);
			InsertTailList(&state.stream, e);
			return;
		}
	}
}

BOOLEAN check_block(const UCHAR *block, ULONG length)
{
	static const UCHAR sizes[] = {
		[V2_SHUTDOWN] = 1,
		[V2_VERDICT] = V2_VERDICT_SIZE,
		[V2_UPDATE_V4] = V2_UPDATE_V4_SIZE,
		[V2_UPDATE_V6] = V2_UPDATE_V6_SIZE,
		[V2_CLEAR_CACHE] = 1,
		[V2_GET_LOGS] = 1,
		[V2_BANDWIDTH] = 1,
		[V2_MEMORY] = 1,
		[V2_CLEAN_ENDED] = 1,
	};

	if (!length || block[0] >= sizeof(sizes) || length != sizes[block[0]]) {
		illegal("block of a wrong size or kind", length ? block[0] : 0, length);
		return FALSE;
	}
	record(block[0], block, length);
	switch (block[0]) {
	case V2_SHUTDOWN:
		state.down = TRUE;
		state.report.shutdowns++;
		break;
	case V2_VERDICT:
		check_verdict(number(block + 1, 8), block[9], FALSE);
		break;
	case V2_UPDATE_V4:
	case V2_UPDATE_V6:
		if (!IS_ANY(block[length - 1], v2_legal_update))
			illegal("no verdict of an update has this number", block[0], block[length - 1]);
		break;
	}
	reply(block[0]);
	return TRUE;
}

BOOLEAN check_code(ULONG function, const UCHAR *in, ULONG in_length, ULONG out_length)
{
	static const struct {
		ULONG in, out;
	} sizes[] = {
		[V1_VERSION - V1_VERSION] = {0, 4},
		[V1_SHUTDOWN - V1_VERSION] = {0, 0},
		[V1_SET_VERDICT - V1_VERSION] = {V1_VERDICT_SIZE, 0},
		[V1_PAYLOAD - V1_VERSION] = {V1_PAYLOAD_SIZE, 1},
		[V1_CLEAR_CACHE - V1_VERSION] = {0, 0},
		[V1_UPDATE - V1_VERSION] = {V1_UPDATE_SIZE, 0},
		[V1_STATS - V1_VERSION] = {V1_STATS_IN_SIZE, V1_STAT_SIZE},
	};
	ULONG i = function - V1_VERSION;

	if (in_length != sizes[i].in || out_length < sizes[i].out) {
		illegal("control code with a wrong size", function, in_length);
		return FALSE;
	}
	record(function, in, in_length);
	switch (function) {
	case V1_SET_VERDICT:
		if (!number(in, 4)) {
			illegal("verdict for a request without a packet", 0, (signed char)in[4]);
			return FALSE;
		}
		check_verdict(number(in, 4), (signed char)in[4], TRUE);
		break;
	case V1_UPDATE:
		if (!IS_ANY((signed char)in[V1_UPDATE_VERDICT], v1_legal_update))
			illegal("no verdict of an update has this number", function, (signed char)in[V1_UPDATE_VERDICT]);
		break;
	case V1_STATS:
		if (number(in, 8) * V1_STAT_SIZE > out_length)
			illegal("room for fewer statistics than asked for", number(in, 8), out_length);
		break;
	}
	return TRUE;
}

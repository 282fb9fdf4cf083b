/* What the files of the fake driver share. One spin lock guards all of it; no IRP is completed while it is held. */
#ifndef STATE_H
#define STATE_H

#include <ddk/wdm.h>

#include "facts.h"
#include "rig.h"

/* chunk is bytes that wait: for a reader, as a request, as an answer, or as a record of what came in. */
struct chunk {
	LIST_ENTRY link;
	ULONGLONG id; /* of a request; the block of an answer; the function or block of a record */
	ULONG length, taken;
	UCHAR data[1];
};

/* expectation is what a test said about the verdict of one id. */
struct expectation {
	LIST_ENTRY link;
	ULONGLONG id;
	int verdict;     /* index into verdicts; -1: none may come */
	BOOLEAN answered;
};

struct generator {
	ULONGLONG next, last; /* ids to send */
	ULONG length;
	UCHAR *info;
};

struct state {
	KSPIN_LOCK lock;
	LIST_ENTRY stream;   /* chunks for readers of v2 */
	LIST_ENTRY requests; /* chunks for receivers of v1: 72 bytes and a packet */
	LIST_ENTRY given;    /* requests that were received: their packets may be asked for */
	LIST_ENTRY answers, stats, records, expectations;
	LIST_ENTRY reads;    /* IRPs that wait: reads of v2 */
	LIST_ENTRY receives; /* and receives of v1 */
	BOOLEAN down;        /* shut down, until the next open */
	BOOLEAN quiet;       /* nothing is recorded: a generator runs */
	struct rig_config config;
	struct rig_report report;
	struct generator generator;
};

extern struct state state;

void copy(void *to, const void *from, SIZE_T length);
ULONGLONG number(const UCHAR *from, ULONG bytes);
struct chunk *new_chunk(ULONGLONG id, const UCHAR *data, ULONG length);
void free_chunks(LIST_ENTRY *list);
void complete(IRP *irp, NTSTATUS status, ULONG_PTR length);

/* check.c: all are called with the lock held. */
void record(ULONG what, const UCHAR *data, ULONG length);
void illegal(const char *what, ULONGLONG id, LONG number);
void check_verdict(ULONGLONG id, int number, BOOLEAN v1);
BOOLEAN check_block(const UCHAR *block, ULONG length);
BOOLEAN check_code(ULONG function, const UCHAR *in, ULONG in_length, ULONG out_length);
NTSTATUS expect(const UCHAR *in, ULONG length);
void forbid(ULONGLONG id);
void forget_expectations(void);

/* rigside.c: control codes of \\.\WeirRig. */
NTSTATUS rig_control(IRP *irp, ULONG_PTR *length);
void generate(void);

/* fakekext.c: completes what can be completed. Called without the lock. */
void pump(void);

#endif

/*
 * The side of the fake driver that tests talk to: the device \\.\WeirRig, with METHOD_BUFFERED control codes of any access.
 * internal/winerig/driver_windows.go has the same numbers; all integers are little-endian.
 */
#ifndef RIG_H
#define RIG_H

#define RIG_CODE(function) ((0x22u << 16) | (0u << 14) | ((function) << 2) | 0u)

enum {
	RIG_RESET = 0x900,    /* forget everything, and behave */
	RIG_CONFIG = 0x901,   /* struct rig_config */
	RIG_PUSH = 0x902,     /* bytes for the stream of v2, as they are */
	RIG_REQUEST = 0x903,  /* 72 bytes and the packet behind them, for v1 */
	RIG_EXPECT = 0x904,   /* id u64, the name of the verdict that must come for it */
	RIG_TAKE = 0x905,     /* out: as many whole records as fit: function or block id u32, length u32, bytes */
	RIG_REPORT = 0x906,   /* out: struct rig_report */
	RIG_ANSWER = 0x907,   /* block id u8, then bytes that go to the stream when such a block comes, once */
	RIG_STATS = 0x908,    /* 64-byte statistics for v1, given out once */
	RIG_GENERATE = 0x909, /* count u64, window u32, then a connection info: it is sent count times, with ids from 1 */
};

struct rig_config {
	unsigned char version[4]; /* what the driver says it is */
	unsigned int max_read;    /* a read gets at most so many bytes; 0 = as many as fit */
	unsigned int delay_ms;    /* what is read or received is given out so much later */
	unsigned int fail_reads;  /* so many reads or receives end with an error */
	unsigned int fail_writes; /* so many blocks are refused */
	unsigned int fail_codes;  /* so many control codes are refused, receives excepted */
	unsigned int gone;        /* not 0: the device does not answer any more */
	unsigned int timeout_ms;  /* a receive of v1 that waits for nothing ends after this */
};

struct rig_report {
	unsigned long long right;      /* verdicts that were the expected ones */
	unsigned long long wrong;      /* others */
	unsigned long long unexpected; /* verdicts for ids that no test named */
	unsigned long long illegal;    /* blocks, codes and verdicts that the protocol does not have */
	unsigned long long waiting;    /* expected verdicts that have not come */
	unsigned long long opened, closed;
	unsigned long long verdicts;   /* all of them, generated ones included */
	unsigned long long shutdowns;  /* requests to shut down */
	char first[256];               /* what the first wrong or illegal thing was */
};

#endif

/*
 * What the two protocols say, typed from the tables of the project's notes on the Windows driver and from nothing else: in
 * particular not from the Go code that is tested against it.
 */
#ifndef FACTS_H
#define FACTS_H

/* Control codes: CTL_CODE(40000, function, METHOD_BUFFERED, FILE_READ_DATA | FILE_WRITE_DATA). */
#define KEXT_CODE(function) ((40000u << 16) | (3u << 14) | ((function) << 2) | 0u)

/* Protocol v1: functions, and the sizes of what they carry. */
enum {
	V1_VERSION = 0x800,
	V1_SHUTDOWN = 0x801,
	V1_RECEIVE = 0x802,
	V1_SET_VERDICT = 0x803,
	V1_PAYLOAD = 0x804,
	V1_CLEAR_CACHE = 0x805,
	V1_UPDATE = 0x806,
	V1_STATS = 0x807,

	V1_REQUEST_SIZE = 72,
	V1_VERDICT_SIZE = 8,
	V1_PAYLOAD_SIZE = 8,
	V1_UPDATE_SIZE = 40,
	V1_STATS_IN_SIZE = 8,
	V1_STAT_SIZE = 64,

	/* offsets in a request */
	V1_REQUEST_ID = 0,
	V1_REQUEST_PID = 8,
	V1_REQUEST_FLAGS = 19,
	V1_FLAG_SOCKET_AUTH = 2,
	/* offset in an update */
	V1_UPDATE_VERDICT = 38,
};

/* Protocol v2: one byte says what a block or an info is. */
enum {
	V2_SHUTDOWN = 0,
	V2_VERDICT = 1,
	V2_UPDATE_V4 = 2,
	V2_UPDATE_V6 = 3,
	V2_CLEAR_CACHE = 4,
	V2_GET_LOGS = 5,
	V2_BANDWIDTH = 6,
	V2_MEMORY = 7,
	V2_CLEAN_ENDED = 8,

	/* whole blocks, with the byte that says what they are */
	V2_VERDICT_SIZE = 1 + 8 + 1,
	V2_UPDATE_V4_SIZE = 1 + 1 + 4 + 2 + 4 + 2 + 1,
	V2_UPDATE_V6_SIZE = 1 + 1 + 16 + 2 + 16 + 2 + 1,

	V2_INFO_HEADER = 1 + 4,
	V2_CONNECTION_V4 = 1,
	V2_CONNECTION_V6 = 2,
};

/*
 * The ten verdicts by the name that a test uses for them, with their numbers in both protocols. In v1 a negative number is
 * for this packet only. A failed or undecided packet is dropped.
 */
static const struct {
	const char *name;
	signed char v1;
	unsigned char v2;
} verdicts[] = {
	{"accept", -2, 2},
	{"permanent accept", 2, 3},
	{"permanent accept final", 2, 3},
	{"block", -3, 4},
	{"permanent block", 3, 5},
	{"drop", -4, 6},
	{"permanent drop", 4, 7},
	{"reroute to nameserver", 5, 8},
	{"reroute to tunnel", 6, 9},
	{"reroute to split tunnel", 8, 11},
	{"failed", -4, 6},
	{"undecided", -4, 6},
};

/* What the driver takes at all, as a verdict for a packet and as an update of a stored one. */
static const signed char v1_legal[] = {-2, 2, -3, 3, -4, 4, 5, 6, 8};
static const signed char v2_legal[] = {2, 3, 4, 5, 6, 7, 8, 9, 11};
static const signed char v1_legal_update[] = {2, 3, 4, 5, 6, 8};
static const signed char v2_legal_update[] = {2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

#endif

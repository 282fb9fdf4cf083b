// Package kexttest has drivers in memory, one for each protocol of the Windows driver, for tests of its clients on any system.
// They do what the real one does with packets: keep them until a verdict comes, store permanent verdicts, decide by those. What
// a client does that the real driver would not understand is a fault, which the test is told.
//
// The numbers of verdicts, commands and control codes are written here as they stand in the protocol's tables, and not taken
// from the client's constants: a wrong constant must not be right in its test.
package kexttest

// Package verdict holds the one decision type of a firewall: what happens to a
// connection (Verdict), for how long (Scope), why (Reason), and the Action that
// a packet backend carries out.
//
// The numbers of Verdict are fixed: drivers, APIs and stored history use them.
// They have no order; never compare two verdicts with < or >.
package verdict

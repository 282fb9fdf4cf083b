// Package conn holds what is known about a connection: a Conn is written by the
// firewall and read by everybody else as an immutable Snapshot, without a lock.
package conn

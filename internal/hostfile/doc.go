// Package hostfile tells whether the path that the kernel has for a running program is that of the host's file. Anybody can mount what he
// likes in a namespace of his own, and what is mounted there has the path of the place; so has what was unmounted while it ran.
package hostfile

// Deleted is what the kernel appends to the path of a file that is not in its place any more.
const Deleted = " (deleted)"

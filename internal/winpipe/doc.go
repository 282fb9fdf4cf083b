// Package winpipe serves and opens named pipes of Windows, as streams: a net.Listener and net.Conns, for programs with the rights of
// an administrator.
//
// Only administrators and the system may open a pipe that Listen made, and only from this machine. Dial refuses pipes that somebody
// else made: what an administrator has to say may not be for every program that took the name first.
//
// It works with overlapped operations and the standard library's os.File, and not with completion ports of its own: those that
// go-winio uses do not tell under Wine that a client has come.
//
// On systems other than Windows there is nothing to call.
package winpipe

import "errors"

var (
	// ErrTaken is wrapped by Listen if another program has a pipe of that name.
	ErrTaken = errors.New("winpipe: another program has this pipe")
	// ErrForeign is wrapped by Dial if the pipe belongs neither to an administrator nor to the system.
	ErrForeign = errors.New("winpipe: the pipe belongs neither to an administrator nor to the system")
)

//go:build amd64 || arm64 || 386

package ebpf

import (
	"bytes"
	"strings"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/procinfo"
)

// Flags of an image, and the length that says: unknown (attr.bpf.c).
const (
	imageDeleted = 1 << 0
	imagePseudo  = 1 << 1
	imageHere    = 1 << 2
	pathUnknown  = 0xffff
)

// maxParents bounds the chain of parents.
const maxParents = 16

// remembered describes a process by what the kernel told when it executed its program; nil if nothing is left of that.
func (t *Tracker) remembered(o *attrOwner) *conn.Process {
	if o.Exec == 0 {
		return nil
	}
	p := t.fromImage(o.Exec)
	if p == nil {
		return nil
	}
	p.PID, p.UID, p.StartTicks = int(o.Pid), o.Uid, ticks(o.Start)
	p.Cgroup = t.cgroups.name(o.Cgroup)
	if p.Cgroup != "" {
		// Without its group, which went with it, nobody can say that it was no container's.
		p.App = t.apps.Of(p, nil)
	}
	p.Parent = t.parent(&attrProcKey{Start: o.Start, Tgid: o.Tgid}, 0)
	return p
}

// fromImage returns what is known of an image; nil if its path is not.
func (t *Tracker) fromImage(exec uint64) *conn.Process {
	var i attrImage
	if t.maps[attrMapImages].Lookup(&exec, &i) != nil {
		return nil
	}
	path, ok := pathOf(i.Path[:], i.PathLen, i.Flags)
	if !ok {
		return nil
	}
	p := &conn.Process{Path: path, Args: argsOf(&i)}
	if cwd, ok := pathOf(i.Cwd[:], i.CwdLen, 0); ok {
		p.Script = procinfo.ScriptOf(path, p.Args, cwd)
	}
	if i.Flags&(imageHere|imagePseudo) == 0 && !t.host.Is(path, i.Dev, i.Ino) {
		p.Path, p.InnerPath = "", path
	}
	return p
}

// argsOf returns the command line of an image, without what was cut off.
func argsOf(i *attrImage) []string {
	n := min(int(i.ArgsLen), len(i.Args))
	b := i.Args[:n]
	if n >= len(i.Args)-1 {
		b = b[:bytes.LastIndexByte(b, 0)+1]
	}
	return splitArgs(b)
}

// parent describes the parent of a process, as it is known.
func (t *Tracker) parent(k *attrProcKey, depth int) *conn.Process {
	var s, up attrProcState
	procs := t.maps[attrMapProcs]
	if depth >= maxParents || procs.Lookup(k, &s) != nil || s.ParentTgid == 0 {
		return nil
	}
	at := &attrProcKey{Start: s.ParentStart, Tgid: s.ParentTgid}
	if procs.Lookup(at, &up) != nil || up.Pid == 0 {
		return nil
	}
	p := t.fromImage(up.Exec)
	if p == nil {
		p = &conn.Process{}
	}
	p.PID, p.UID, p.StartTicks = int(up.Pid), up.Uid, ticks(at.Start)
	p.Parent = t.parent(at, depth+1)
	return p
}

// pathOf puts a path together from its names, which come last first.
func pathOf(names []byte, size, flags uint32) (path string, ok bool) {
	if size == pathUnknown || int(size) > len(names) {
		return "", false
	}
	var b strings.Builder
	for rest := bytes.TrimSuffix(names[:size], []byte{0}); len(rest) > 0; {
		i := bytes.LastIndexByte(rest, 0)
		b.WriteByte('/')
		b.Write(rest[i+1:])
		rest = rest[:max(i, 0)]
	}
	if b.Len() == 0 {
		return "/", true
	}
	if flags&(imageDeleted|imagePseudo) != 0 {
		b.WriteString(" (deleted)") // as in /proc
	}
	return b.String(), true
}

// splitArgs splits a command line.
func splitArgs(b []byte) []string {
	b = bytes.TrimRight(b, "\x00")
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\x00")
}

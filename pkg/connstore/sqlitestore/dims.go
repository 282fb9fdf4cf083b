package sqlitestore

import (
	"encoding/json"
	"fmt"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

// The values that many connections have in common. Their numbers are those of the rows of their tables; 0 is none.

type app struct{ path, script string }

type name struct {
	domain string
	cnames string // JSON, or empty
}

type way struct {
	iface         string
	split, tunnel string // JSON, or empty
}

type process struct {
	app    uint32
	pid    int
	parent uint32
	rest   string // JSON of processRest
}

type processRest struct {
	UID        uint32   `json:"uid,omitempty"`
	Args       []string `json:"args,omitempty"`
	Cgroup     string   `json:"cgroup,omitempty"`
	User       string   `json:"user,omitempty"`
	Package    string   `json:"package,omitempty"`
	Services   []string `json:"services,omitempty"`
	App        conn.App `json:"app,omitzero"`
	StartTicks uint64   `json:"start,omitempty"`
	// InnerPath tells that the row's path is the identity of an app.
	InnerPath string `json:"inner,omitempty"`
}

// dim is a table of distinct values. Those since the last commit can be taken back.
type dim[T comparable] struct {
	ids   map[T]uint32
	all   map[uint32]T
	last  uint32
	fresh []uint32
}

func newDim[T comparable]() dim[T] { return dim[T]{ids: map[T]uint32{}, all: map[uint32]T{}} }

func (d *dim[T]) put(id uint32, v T) {
	d.ids[v], d.all[id] = id, v
	d.last = max(d.last, id)
}

// intern returns the number of v, and a new one if it has none. The zero value has number 0.
func (d *dim[T]) intern(v T) uint32 {
	var zero T
	if v == zero {
		return 0
	}
	id, ok := d.ids[v]
	if !ok {
		id = d.last + 1
		d.put(id, v)
		d.fresh = append(d.fresh, id)
	}
	return id
}

func (d *dim[T]) remove(id uint32) {
	delete(d.ids, d.all[id])
	delete(d.all, id)
}

func (d *dim[T]) rollback() {
	for _, id := range d.fresh {
		d.remove(id)
	}
	d.fresh = nil
}

// maxProcesses is how many processes are remembered for the next connection of theirs. More would cost memory; a forgotten one gets
// another row.
const maxProcesses = 8192

type dims struct {
	apps    dim[app]
	names   dim[name]
	reasons dim[verdict.Reason]
	ways    dim[way]
	// processes has but the latest.
	processes dim[process]
}

func newDims() *dims {
	return &dims{newDim[app](), newDim[name](), newDim[verdict.Reason](), newDim[way](), newDim[process]()}
}

func (d *dims) commit() {
	d.apps.fresh, d.names.fresh, d.reasons.fresh, d.ways.fresh, d.processes.fresh = nil, nil, nil, nil, nil
	if len(d.processes.all) > maxProcesses {
		last := d.processes.last
		d.processes = newDim[process]()
		d.processes.last = last
	}
}

func (d *dims) rollback() {
	d.apps.rollback()
	d.names.rollback()
	d.reasons.rollback()
	d.ways.rollback()
	d.processes.rollback()
}

// text is JSON of what can always be written.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("sqlitestore: write %T: %v", v, err)) // a mistake in this package: the types are fixed
	}
	return string(b)
}

// internProcess interns p after its parents, whose numbers are lower therefore.
func (d *dims) internProcess(p *conn.Process) (id, ofApp uint32) {
	if p == nil {
		return 0, 0
	}
	v := process{pid: p.PID, rest: text(processRest{p.UID, p.Args, p.Cgroup, p.User, p.Package, p.Services, p.App, p.StartTicks, p.InnerPath})}
	v.parent, _ = d.internProcess(p.Parent)
	v.app = d.apps.intern(app{p.Executable(), p.Script})
	return d.processes.intern(v), v.app
}

func nameOf(s *conn.Snapshot) name {
	n := name{domain: s.Domain}
	if len(s.CNAMEs) > 0 {
		n.cnames = text(s.CNAMEs)
	}
	return n
}

func wayOf(s *conn.Snapshot) (w way) {
	if s.SplitTun != nil {
		w.iface, w.split = s.SplitTun.Interface, text(s.SplitTun)
	}
	if s.Tunnel != nil {
		w.tunnel = text(s.Tunnel)
	}
	return w
}

// complete puts on s what the dimensions of its row know.
func (d *dims) complete(s *conn.Snapshot, r *row) error {
	n, w := d.names.all[r.name], d.ways.all[r.way]
	s.Domain, s.Decision.Reason = n.domain, d.reasons.all[r.reason]
	for _, part := range []struct {
		text string
		into any
	}{{n.cnames, &s.CNAMEs}, {w.split, &s.SplitTun}, {w.tunnel, &s.Tunnel}} {
		if part.text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(part.text), part.into); err != nil {
			return fmt.Errorf("connection %d: %w", s.ID, err)
		}
	}
	return nil
}

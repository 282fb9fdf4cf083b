//go:build amd64 || arm64

package ebpf

import (
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// RunTime is how long the programs that programs pay for have run, by the kernel's own count: those for sockets and packets, and not those
// that follow processes.
func (t *Tracker) RunTime() (sum time.Duration, err error) {
	seen := map[ebpf.ProgramID]bool{}
	for _, a := range t.attached {
		l, ok := a.(link.Link)
		if !ok {
			continue
		}
		info, err := l.Info()
		if err != nil {
			return 0, err
		}
		if seen[info.Program] { // attached for both families
			continue
		}
		seen[info.Program] = true
		p, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			return 0, err
		}
		what, err := p.Info()
		if err != nil {
			return 0, err
		}
		stats, err := p.Stats()
		if err != nil {
			return 0, err
		}
		switch what.Name {
		case "on_exec", "on_fork", "on_exit":
		default:
			sum += stats.Runtime
		}
		if err := p.Close(); err != nil {
			return 0, err
		}
	}
	return sum, nil
}

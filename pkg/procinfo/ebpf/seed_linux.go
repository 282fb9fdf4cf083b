//go:build amd64 || arm64 || 386

package ebpf

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// seeder is a program that goes through what was there before us.
type seeder struct {
	name string
	iter *link.Iter
}

// seeders run in the order in which they were attached: processes before their sockets.
type seeders []seeder

// seed notes the processes and sockets that are older than the programs. What it misses takes longer to attribute, no more.
func (t *Tracker) seed() {
	for _, s := range t.seeders {
		rows, err := s.run()
		if err != nil {
			t.log.Warn("some of what is older than the start takes longer to attribute", "err", err)
			continue
		}
		for ; len(rows) >= taskRowSize; rows = rows[taskRowSize:] {
			var r attrTaskRow
			r.Exec, r.Start, r.Pid = binary.NativeEndian.Uint64(rows), binary.NativeEndian.Uint64(rows[8:]), binary.NativeEndian.Uint32(rows[16:])
			t.addArgs(&r)
		}
	}
}

const taskRowSize = 24

func (s *seeder) run() ([]byte, error) {
	r, err := s.iter.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	rows, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	return rows, nil
}

// addArgs completes the image of an older process: its forks may be gone when they are asked about. A number that was used again
// meanwhile is another process, whose start differs.
func (t *Tracker) addArgs(r *attrTaskRow) {
	if r.Pid == 0 {
		return
	}
	dir := t.cfg.Proc + "/" + strconv.Itoa(int(r.Pid)) + "/"
	args, err := os.ReadFile(dir + "cmdline")
	if err != nil || len(args) == 0 || startOf(dir+"stat") != ticks(r.Start) {
		return
	}
	var i attrImage
	if t.maps[attrMapImages].Lookup(&r.Exec, &i) != nil {
		return
	}
	i.ArgsLen = uint32(copy(i.Args[:], args))
	_ = t.maps[attrMapImages].Update(&r.Exec, &i, ebpf.UpdateExist) // forgotten since: then nobody asks
}

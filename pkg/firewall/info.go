package firewall

import (
	"slices"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// infoWait is how long the first packet of a connection waits for the info-only packet that its backend announced
// (packet.Packet.ExpectsInfo) and that tells the process. The driver sends it next; without it the process stays unknown.
const infoWait = 250 * time.Millisecond

// expectsInfo reports whether a new connection has to wait for its info.
func (f *Firewall) expectsInfo(p packet.Packet) bool {
	return f.cfg.Processes != nil && p.ExpectsInfo()
}

// awaitInfo makes a flow wait. The lock of its shard is held, and it is in its table.
func (f *Firewall) awaitInfo(fl *flow) {
	fl.info = time.AfterFunc(infoWait, func() {
		shard := f.flows.of(fl.tuple)
		shard.mu.Lock()
		late := fl.info != nil
		fl.info = nil
		shard.mu.Unlock()
		if late {
			f.stats.infoMissed.Add(1)
			f.schedule(fl)
		}
	})
}

// infoCame puts the info that a flow waits for in front: by it the connection is judged. The lock of the shard is held.
func (fl *flow) infoCame(p packet.Packet) {
	fl.info.Stop() // if it is too late for that, it finds nothing to do
	fl.info = nil
	fl.queue = slices.Insert(fl.queue, 0, p)
}

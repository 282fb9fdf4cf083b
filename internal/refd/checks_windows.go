package refd

import (
	"context"
	"fmt"
)

// Texts of the self-check.
const (
	monitoredResolver = "the DNS client of Windows"
	monitorRemedy     = "Start refd again: somebody may have ended its trace session; what is not told is read in packets."
	useNameserver     = "make refd's address the DNS server of the network adapters"
)

// askResolver wants an event of ours to come back through the session that the DNS client's come through. A name that nobody has is no
// question to ask here: Windows tells only of what was found.
func (d *Daemon) askResolver(ctx context.Context) error {
	if err := d.naming.monitor.Flush(ctx); err != nil {
		return fmt.Errorf("have an event come back: %w", err)
	}
	return nil
}

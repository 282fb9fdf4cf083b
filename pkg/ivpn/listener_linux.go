package ivpn

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// trustListener returns an error unless whoever takes connections at that port
// of 127.0.0.1 is an administrator. After a crash of the daemon port.txt stays,
// and anybody may listen at its port.
func trustListener(port uint16) error {
	found := false
	for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("look for the daemon's socket: %w", err)
		}
		in := bufio.NewScanner(f)
		for in.Scan() {
			uid, ok := listenerOwner(in.Text(), port)
			if ok && !ownerTrusted(uid) {
				_ = f.Close() // only read
				return fmt.Errorf("%w: port %d is user %d's; want root's", ErrUntrusted, port, uid)
			}
			found = found || ok
		}
		err = errors.Join(in.Err(), f.Close())
		if err != nil {
			return fmt.Errorf("look for the daemon's socket: %w", err)
		}
		if found {
			break // what listens beside a socket of IPv4 is for IPv6 only: anybody's, and not who we talk to
		}
	}
	if !found {
		return fmt.Errorf("%w: nobody is known to listen at port %d", ErrUntrusted, port)
	}
	return nil
}

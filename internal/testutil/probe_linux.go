package testutil

import (
	"encoding/binary"
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// inThrowaway runs fn on a thread in a new network namespace; thread and namespace end with it.
func inThrowaway(fn func() error) error {
	errc := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime then ends the thread instead of using it, in the wrong namespace, for other code.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be ended, and /proc/self/net shows its namespace. Holding it here makes the
			// runtime use another thread.
			defer runtime.UnlockOSThread()
			errc <- inThrowaway(fn)
			return
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			errc <- fmt.Errorf("new network namespace: %w", err)
			return
		}
		errc <- fn()
	}()
	return <-errc
}

func probeCommand(name string, args ...string) (out []byte, err error) {
	err = inThrowaway(func() error {
		var runErr error
		out, runErr = exec.Command(name, args...).CombinedOutput() //nolint:noctx // ends by itself
		return runErr
	})
	return out, err
}

// probeNFQUEUE binds a queue by hand: no library of ours or others is trusted with the answer.
func probeNFQUEUE() error {
	return inThrowaway(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("netlink socket: %w", err)
		}
		defer unix.Close(fd) //nolint:errcheck // nothing was written that could be lost
		if err := unix.Sendto(fd, bindQueueMessage(1), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return fmt.Errorf("bind queue: %w", err)
		}
		buf := make([]byte, 4096)
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return fmt.Errorf("bind queue: %w", err)
		}
		if n < unix.NLMSG_HDRLEN+4 {
			return fmt.Errorf("bind queue: answer of %d bytes", n)
		}
		if errno := int32(binary.NativeEndian.Uint32(buf[unix.NLMSG_HDRLEN:])); errno != 0 {
			return fmt.Errorf("bind queue: %w", unix.Errno(-errno))
		}
		return nil
	})
}

// bindQueueMessage is NFQNL_MSG_CONFIG with NFQNL_CFG_CMD_BIND, and a wish for an acknowledgement.
func bindQueueMessage(queue uint16) []byte {
	const (
		subsysQueue  = 3
		msgConfig    = 2
		attrCmd      = 1
		cmdBind      = 1
		nfgenmsgLen  = 4
		attrLen      = 8
		messageBytes = unix.NLMSG_HDRLEN + nfgenmsgLen + attrLen
	)
	m := make([]byte, 0, messageBytes)
	m = binary.NativeEndian.AppendUint32(m, messageBytes)
	m = binary.NativeEndian.AppendUint16(m, subsysQueue<<8|msgConfig)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = binary.NativeEndian.AppendUint32(m, 1)
	m = binary.NativeEndian.AppendUint32(m, 0)
	m = append(m, unix.AF_UNSPEC, 0)
	m = binary.BigEndian.AppendUint16(m, queue)
	m = binary.NativeEndian.AppendUint16(m, attrLen)
	m = binary.NativeEndian.AppendUint16(m, attrCmd)
	m = append(m, cmdBind, 0)
	return binary.BigEndian.AppendUint16(m, unix.AF_UNSPEC)
}

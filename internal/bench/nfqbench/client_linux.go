package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// latency is what the client prints, in microseconds.
type latency struct {
	N    int     `json:"n"`
	Fail int     `json:"fail"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	Mean float64 `json:"mean"`
}

// client makes connections one at a time and measures connect(2): the way of the first packet there and of its answer back.
func client(o *options) error {
	runtime.LockOSThread()
	if o.cpu >= 0 {
		var set unix.CPUSet
		set.Set(o.cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("run on CPU %d: %w", o.cpu, err)
		}
	}
	addr, err := netip.ParseAddr(o.to)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	var times []time.Duration
	var r latency
	for i := range o.connect {
		took, err := connect(&unix.SockaddrInet4{Addr: addr.As4(), Port: 8000 + i%o.ports})
		if err != nil {
			r.Fail++
			continue
		}
		times = append(times, took)
		time.Sleep(time.Duration(o.pauseFor) * time.Microsecond)
	}
	r.summarize(times[len(times)/20:]) // the first ones warm up
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

func (r *latency) summarize(times []time.Duration) {
	if r.N = len(times); r.N == 0 {
		return
	}
	slices.Sort(times)
	at := func(share float64) float64 { return float64(times[int(share*float64(len(times)-1))]) / 1e3 }
	var sum time.Duration
	for _, d := range times {
		sum += d
	}
	r.P50, r.P90, r.P99, r.Mean = at(0.5), at(0.9), at(0.99), float64(sum)/1e3/float64(len(times))
}

// connect returns how long one connection took to open, and resets it.
func connect(to unix.Sockaddr) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, fmt.Errorf("linger: %w", err)
	}
	began := time.Now()
	// The server resets at once; a connection that was reset was open.
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.ECONNRESET) {
		return 0, fmt.Errorf("connect: %w", err)
	}
	return time.Since(began), nil
}

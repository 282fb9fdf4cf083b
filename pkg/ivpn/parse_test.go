package ivpn

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// FuzzLines reads a stream of messages as a session does.
func FuzzLines(f *testing.F) {
	f.Add([]byte(`{"Command":"HelloResp","Idx":1,"Version":"3.16","ServiceBinary":"/opt/x"}` + "\n"))
	f.Add([]byte(`{"Command":"ConnectionStarting","Idx":0,"Address":"192.0.2.1","Port":2049,"Protocol":17}` + "\n\n{}\n"))
	f.Add([]byte(`{"Command":"ConnectedResp","VpnType":1,"ClientIP":"10.0.0.1","PausedTill":"2026-11-30T12:00:00Z","IsPaused":true}` + "\n"))
	f.Add([]byte(`{"Command":"VpnStateResp","State":3,"StateVal":"AUTH"}` + "\n" + `{"Command":"ErrorResp","ErrorType":1}` + "\nrest"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		in, n := newLines(bytes.NewReader(stream)), 0
		for {
			line, err := in.next()
			if err != nil {
				break
			}
			n++
			m, err := parse(line)
			if err != nil {
				if !errors.Is(err, errMessage) || m.body != nil {
					t.Errorf("got %+v, %v; want nothing but errMessage", m, err)
				}
				continue
			}
			if s, ok := m.body.(ConnectionStarting); ok {
				a := s.Endpoint.Address
				if !a.IsValid() || a.Port() == 0 || a.Addr() != a.Addr().Unmap() || a.Addr().Zone() != "" {
					t.Errorf("got endpoint %v", s.Endpoint)
				}
			}
			if again, err := parse(line); err != nil || again.header != m.header || again.body != nil && again.body != m.body {
				t.Errorf("got %+v, %v; want the same twice", again, err)
			}
		}
		if want := bytes.Count(stream, []byte("\n")); n != want {
			t.Errorf("got %d lines; want %d", n, want)
		}
	})
}

// FuzzAddress reads port.txt.
func FuzzAddress(f *testing.F) {
	for _, text := range []string{"51234:9af03c", "1:0", "65535:ffffffffffffffff\n", "0:1", ":", "1:-1", "+1:1", "1:0x1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAddress(text)
		if err != nil {
			if a != (Address{}) || !errors.Is(err, ErrPortFile) {
				t.Errorf("got %+v, %v; want nothing and ErrPortFile", a, err)
			}
			return
		}
		if again, err := parseAddress(fmt.Sprintf("%d:%x", a.Port, a.Secret)); err != nil || again != a || a.Port == 0 {
			t.Errorf("got %+v, %v; want %+v", again, err, a)
		}
	})
}

// FuzzListener reads a line of /proc/net/tcp.
func FuzzListener(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1", uint16(8080))
	f.Add("   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1", uint16(8080))
	f.Fuzz(func(t *testing.T, line string, port uint16) {
		if uid, ok := listenerOwner(line, port); !ok && uid != 0 {
			t.Errorf("got user %d of no listener", uid)
		}
	})
}

// FuzzTableListeners reads what Windows answers about listening sockets.
func FuzzTableListeners(f *testing.F) {
	f.Add(table4, uint16(8080), false)
	f.Add(table6, uint16(8080), true)
	f.Add([]byte("\xff\xff\xff\xff"+strings.Repeat("\x02\x00\x00\x00", 30)), uint16(2), true)
	f.Fuzz(func(t *testing.T, table []byte, port uint16, v6 bool) {
		layout := tableIPv4
		if v6 {
			layout = tableIPv6
		}
		list := layout.listeners(table, port)
		if len(list) > len(table)/layout.size {
			t.Errorf("got %d listeners of %d bytes", len(list), len(table))
		}
		for _, pid := range answering(list) {
			if !slices.ContainsFunc(list, func(l tableListener) bool { return l.pid == pid }) {
				t.Errorf("got process %d; want one of %v", pid, list)
			}
		}
	})
}

// Tables of GetExtendedTcpTable, by hand from the structures of tcpmib.h.
//
//nolint:gochecknoglobals // what tests read
var (
	table4 = unhex("04000000" +
		//  state      address    port       remote     port       process
		"02000000" + "7f000001" + "1f900000" + "00000000" + "00000000" + "11000000" +
		"02000000" + "00000000" + "1f900000" + "00000000" + "00000000" + "12000000" +
		"05000000" + "7f000001" + "1f900000" + "7f000001" + "c0000000" + "13000000" + // established
		"02000000" + "7f000001" + "1f910000" + "00000000" + "00000000" + "14000000") // another port
	table6 = unhex("02000000" +
		//  address                            scope      port
		"00000000000000000000000000000000" + "00000000" + "1f900000" + "00000000000000000000000000000000" + "00000000" + "00000000" + "02000000" + "15000000" +
		"00000000000000000000000000000001" + "00000000" + "1f900000" + "00000000000000000000000000000000" + "00000000" + "00000000" + "02000000" + "16000000")
)

func unhex(text string) []byte {
	b, err := hex.DecodeString(text)
	if err != nil {
		panic(err) // it is written above
	}
	return b
}

func TestTableListeners(t *testing.T) {
	four, six := tableIPv4.listeners(table4, 8080), tableIPv6.listeners(table6, 8080)
	want := []tableListener{
		{netip.MustParseAddr("127.0.0.1"), 17}, {netip.IPv4Unspecified(), 18}, {netip.IPv6Unspecified(), 21}, {netip.IPv6Loopback(), 22},
	}
	if got := slices.Concat(four, six); !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	for _, cut := range [][]byte{nil, table4[:3], table4[:4], table4[:4+23]} {
		if got := tableIPv4.listeners(cut, 8080); got != nil {
			t.Errorf("%d bytes: got %v; want none", len(cut), got)
		}
	}
	// who listens at 127.0.0.1 gets what goes there, whoever listens elsewhere beside it
	any4, any6, exact := tableListener{netip.IPv4Unspecified(), 2}, tableListener{netip.IPv6Unspecified(), 3}, four[0]
	for want, list := range map[string][]tableListener{
		"[17]":   slices.Concat(six, four),
		"[9 17]": {exact, any4, {exact.addr, 9}, exact},
		"[2]":    {any6, any4},
		"[3]":    {any6, {netip.IPv6Loopback(), 4}},
		"[]":     {{netip.IPv6Loopback(), 4}, {netip.MustParseAddr("192.0.2.1"), 5}},
	} {
		if got := fmt.Sprint(answering(list)); got != want {
			t.Errorf("%v: got %s; want %s", list, got, want)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]Address{
		"51234:9af03c": {51234, 0x9af03c}, "1:0\n": {1, 0}, " 65535:ffffffffffffffff \n": {65535, 1<<64 - 1},
	} {
		if got, err := parseAddress(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "51234", "0:1", "65536:1", "-1:1", "1:", "1:xyz", "1:10000000000000000", "1:2:3", "1:0x2"} {
		if got, err := parseAddress(text); !errors.Is(err, ErrPortFile) {
			t.Errorf("%q: got %+v, %v; want ErrPortFile", text, got, err)
		} else if strings.Contains(err.Error(), "xyz") {
			t.Errorf("%v: tells what may be a secret", err)
		}
	}
}

func TestListenerOwner(t *testing.T) {
	const rest = " 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0"
	for _, test := range []struct {
		line string
		ok   bool
	}{
		{"   0: 0100007F:1F90" + rest, true},
		{"   0: 00000000:1F90" + rest, true},
		{"   0: 00000000000000000000000000000000:1F90" + rest, true},
		{"   0: 0000000000000000FFFF00000100007F:1F90" + rest, true},
		{"   0: 00000000000000000000000001000000:1F90" + rest, false}, // ::1 takes no IPv4
		{"   0: 0200007F:1F90" + rest, false},
		{"   0: 0100007F:1F91" + rest, false},
		{"   0: 0100007F:1F90" + strings.Replace(rest, " 0A ", " 01 ", 1), false},
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", false},
	} {
		uid, ok := listenerOwner(test.line, 8080)
		if ok != test.ok || ok && uid != 1000 {
			t.Errorf("%q: got %d, %v; want %v", test.line, uid, ok, test.ok)
		}
	}
}

func TestReachable(t *testing.T) {
	for listen, want := range map[string]string{
		"0.0.0.0": "127.0.0.1", "::": "::1", "192.0.2.53": "192.0.2.53", "::ffff:0.0.0.0": "127.0.0.1", "fd00::53": "fd00::53",
	} {
		if got := reachable(netip.MustParseAddr(listen)); got.String() != want {
			t.Errorf("%s: got %v; want %s", listen, got, want)
		}
	}
}

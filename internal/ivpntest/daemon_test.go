package ivpntest_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/internal/testutil"
)

// talk sends lines to the daemon at the port of port.txt and returns n of its answers, or fewer if it closes.
func talk(t *testing.T, folder string, n int, requests ...string) []map[string]any {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(folder, "port.txt"))
	if err != nil {
		t.Fatal(err)
	}
	port, secret, _ := strings.Cut(string(content), ":")
	c, err := net.Dial("tcp4", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		if strings.Contains(r, "SECRET") {
			var number uint64
			if _, err := fmt.Sscanf(secret, "%x", &number); err != nil {
				t.Fatal(err)
			}
			r = strings.ReplaceAll(r, "SECRET", fmt.Sprint(number))
		}
		if _, err := fmt.Fprintln(c, r); err != nil {
			t.Fatal(err)
		}
	}
	var answers []map[string]any
	for in := bufio.NewScanner(c); len(answers) < n && in.Scan(); {
		var m map[string]any
		if err := json.Unmarshal(in.Bytes(), &m); err != nil {
			t.Fatalf("%s: %v", in.Bytes(), err)
		}
		answers = append(answers, m)
	}
	return answers
}

const greeting = `{"Command":"Hello","Idx":7,"Secret":SECRET,"GetStatus":true,"GetServiceBinaryPath":true,"GetActiveRemoteEndpoint":true}`

func TestDaemon(t *testing.T) {
	testutil.NoLeaks(t)
	for _, test := range []struct {
		name     string
		cfg      ivpntest.Config
		requests []string
		want     []string // command and number, in order
		binary   any
	}{
		{
			name: "new", cfg: ivpntest.Config{ServiceBinary: "/opt/x"}, requests: []string{greeting, `{"Command":"SetTempPrioritizedDns","Idx":8}`},
			want: []string{"HelloResp 7", "ConnectionStarting 0", "ConnectedResp 0", "EmptyResp 8"}, binary: "/opt/x",
		},
		{name: "old", cfg: ivpntest.Config{Old: true, ServiceBinary: "/opt/x"}, requests: []string{greeting}, want: []string{"HelloResp 7", "ConnectedResp 0"}},
		{
			name: "wrong secret", requests: []string{strings.Replace(greeting, "SECRET", "1", 1)},
			want: []string{"ErrorResp 7"},
		},
		{
			name: "no app secret", cfg: ivpntest.Config{AppSecret: "s"}, requests: []string{greeting, strings.Replace(greeting, "7", `8,"ProtocolSecret":"s"`, 1)},
			want: []string{"ErrorResp 7", "HelloResp 8"},
		},
		{name: "no greeting", requests: []string{`{"Command":"SetTempPrioritizedDns","Idx":8}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Folder = t.TempDir()
			d, err := ivpntest.Start(test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.Stop(); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(filepath.Join(test.cfg.Folder, "port.txt")); !os.IsNotExist(err) {
					t.Errorf("port.txt after the end: got %v; want none", err)
				}
			}()
			d.Starting("192.0.2.1", 2049, 17)
			d.Connected(map[string]any{"ServerIP": "192.0.2.1"})
			var got []string
			for _, m := range talk(t, test.cfg.Folder, max(len(test.want), 1), test.requests...) {
				got = append(got, fmt.Sprint(m["Command"], " ", m["Idx"]))
				if m["Command"] == "HelloResp" && m["ServiceBinary"] != test.binary && test.name != "no app secret" {
					t.Errorf("service binary: got %v; want %v", m["ServiceBinary"], test.binary)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got %v; want %v", got, test.want)
			}
		})
	}
}

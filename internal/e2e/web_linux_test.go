package e2e_test

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

const page818 = "http://127.0.0.1:818"

// webRig is a split rig with a browser that is logged in.
type webRig struct {
	*splitRig
	b *browser
}

func newWebRig(t *testing.T) *webRig {
	t.Helper()
	w := &webRig{splitRig: newSplitRig(t, testutil.VariantNFT)}
	testutil.RequireTool(t, "curl", "dig", "iperf3", "chromium")
	copyProgram(t, "/usr/bin/curl", w.app("chosen-curl"))
	w.server.HTTP(t, "[::]:8080", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, strings.Repeat("data ", 2000)) }))
	w.server.DNS(t, testnet.UplinkServerV4+":53", "www.example.org. 60 IN CNAME web.example.net.", "web.example.net. 60 IN A "+testnet.UplinkOtherServerV4)
	w.start(t, settings{rules: w.split("kroute") + `
# rules for everybody, and a comment that stays
global:
  - {id: no-telnet, remote_ports: "23", action: block, comment: nobody needs telnet}
`})
	w.b = openBrowser(t, w.client, page818)
	w.b.size(1280, "light")
	w.b.run(chromedp.Navigate(page818 + "/"))
	w.b.until("it asks for a login", `document.querySelector(".login")`)
	w.b.axe("login")
	w.b.run(chromedp.Navigate(strings.TrimSpace(w.cli(t, "ui", "--print"))))
	w.b.until("it is logged in", `document.querySelector(".mode")?.textContent === "enforce"`)
	return w
}

// fetch gets a page by a copy of curl.
func (w *webRig) fetch(curl string) error {
	out, err := w.client.Try(curl, "-sS", "-m", "10", "-o", "/dev/null", "http://"+testnet.UplinkServerV4+":8080/")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// last returns the newest connection of a program to the web server.
func (w *webRig) last(t *testing.T, app string) conn.Snapshot {
	t.Helper()
	return w.conn(t, netip.MustParseAddr(testnet.UplinkServerV4), 8080, "--app", app)
}

func (w *webRig) goTo(hash string) {
	w.b.t.Helper()
	w.b.run(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("location.hash = %q", hash)))
}

// look takes pictures and looks for faults, at two widths, light and dark.
func (w *webRig) look(name string) {
	w.b.t.Helper()
	began := time.Now()
	defer func() { w.b.t.Logf("%s: looked at for %v", name, time.Since(began).Round(time.Millisecond)) }()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 390} {
			w.b.size(width, scheme)
			w.b.until("charts are there", `[...document.querySelectorAll(".chart")].every(c => c.querySelector("canvas"))`)
			w.b.until("it is drawn", `new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(true))))`)
			w.b.document(fmt.Sprintf("%s-%d-%s", name, width, scheme))
			w.b.until("nothing is wider than the window", `document.documentElement.scrollWidth <= innerWidth`)
		}
		w.b.axe(name + " " + scheme)
	}
	w.b.size(1280, "light")
}

// A person's way through the page, in a real browser, while real programs make traffic.
func TestIntegrationWebPage(t *testing.T) {
	t.Parallel()
	w := newWebRig(t)
	chosen := w.app("chosen-curl")
	for range 3 {
		for _, curl := range []string{"/usr/bin/curl", chosen} {
			if err := w.fetch(curl); err != nil {
				t.Fatal(err)
			}
		}
		w.client.Run(t, "dig", "+short", "@"+testnet.UplinkServerV4, "www.example.org")
	}
	if _, err := w.client.Try("curl", "-sS", "-m", "5", "telnet://"+testnet.UplinkServerV4+":23"); err == nil {
		t.Error("telnet is not blocked")
	}
	w.iperf(t, netip.MustParseAddr(testnet.UplinkServerV4), "-t", "1")
	w.b.until("iperf3 is among them", `[...document.querySelectorAll(".row .app")].some(a => a.textContent === "iperf3")`)
	w.b.until("rows come by themselves", `document.querySelectorAll(".row").length >= 10`)
	w.b.until("there are counts", `/^[1-9]/.test(document.querySelector(".count.v-split b").textContent)`)
	w.look("connections")
	w.ownConnections()

	w.filterAndPanel()
	w.blockRule(t)
	w.splitOfAnApp(t, chosen)
	w.splitSwitch(t, chosen)
	w.notification(t)
	w.prompt(t)
	for _, view := range []string{"apps", "settings", "status"} {
		w.goTo("#/" + view)
		w.b.until("there is "+view, `document.querySelector(".page table, .page .card")`)
		w.look(view)
	}
	w.underLoad(t)
	w.figures(t)
	if benchmarks() {
		w.manyRows(t)
	}
	w.b.wantNoProblems()
	text, err := os.ReadFile(w.configPath())
	if err != nil || !strings.Contains(string(text), "# rules for everybody, and a comment that stays\n") {
		t.Errorf("the comment is gone (%v):\n%s", err, text)
	}
}

// ownConnections are those of the page with refd, which are in the list for who asks for them only.
func (w *webRig) ownConnections() {
	w.b.t.Helper()
	const own = `[...document.querySelectorAll(".row")].some(r => /127\.0\.0\.1/.test(r.querySelector(".addr").textContent) && r.querySelector(".dest").textContent.includes(":818"))`
	w.goTo("#/connections?kind=own")
	w.b.until("the page's own connections can be listed", own)
	w.goTo("#/connections")
	w.b.until("they are not in the list of all others", `location.hash === "#/connections" && document.querySelectorAll(".row").length >= 10 && !`+own)
}

// filterAndPanel filters to split tunneled, opens one and reads interface and address.
func (w *webRig) filterAndPanel() {
	w.b.click("button.count|split tunneled")
	w.b.until("only split ones are left", `location.hash.includes("verdict=RerouteToSplitTun") && document.querySelectorAll(".row").length > 0 && [...document.querySelectorAll(".row")].every(r => r.querySelector(".badge.v-split"))`)
	w.b.click(".row|chosen-curl")
	for _, text := range []string{"eth0", testnet.ISPClientV4, "kroute"} {
		w.b.until("the panel has "+text, fmt.Sprintf(`document.querySelector(".panel .split-details")?.textContent.includes(%q)`, text))
	}
	w.look("panel")
	w.b.click(".panel button|Close")
	w.b.until("the panel is closed", `!document.querySelector(".panel")`)
}

// blockRule makes a rule of a connection and sees it take effect.
func (w *webRig) blockRule(t *testing.T) {
	t.Helper()
	w.goTo("#/connections?app=/usr/bin/curl&port=8080")
	w.b.click(".row|curl")
	w.b.click(".panel .make-rule button|Block for curl")
	w.b.until("it is done", `document.querySelector(".make-rule .done")?.textContent.includes("Blocked")`)
	if err := w.fetch("/usr/bin/curl"); err == nil {
		t.Error("curl still gets through")
	}
	c := w.last(t, "/usr/bin/curl")
	if c.Decision.Verdict != verdict.Block {
		t.Errorf("got %v; want it blocked", c.Decision)
	}
	w.goTo("#/rules/" + c.Decision.Reason.Rule)
	w.b.until("the rule's page shows it", fmt.Sprintf(`document.querySelector(".rule .id")?.textContent === %q`, c.Decision.Reason.Rule))
}

// splitOfAnApp toggles the split tunnel and the interface of an app on its page.
func (w *webRig) splitOfAnApp(t *testing.T, chosen string) {
	t.Helper()
	w.goTo("#/apps")
	w.b.click(".page table a|chosen")
	w.b.until("the app's page is there", `document.querySelector(".picker select option[value=vpn0]")`)
	w.look("app")
	save := func() {
		w.b.until("it can be saved", `[...document.querySelectorAll(".save button")].some(b => b.textContent === "Save" && !b.disabled)`)
		w.b.click(".save button|Save")
		w.b.until("it is saved", `document.querySelector(".save .done")?.textContent.includes("Saved") && [...document.querySelectorAll(".save button")].some(b => b.textContent === "Save" && b.disabled)`)
	}
	toggle := func() { w.b.click(".card label.switch|Leave by an interface of its own") }
	want := func(what string, ok func(c conn.Snapshot) bool) {
		t.Helper()
		if err := w.fetch(chosen); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if c := w.last(t, "chosen-curl"); !ok(c) {
			t.Errorf("%s: got %v, split %+v", what, c.Decision, c.SplitTun)
		}
	}
	toggle()
	save()
	want("switched off for the app", func(c conn.Snapshot) bool { return c.SplitTun == nil && c.Decision.Verdict == verdict.Accept })
	toggle()
	// what stands for the VPN has the better default route, and is no tunnel to the kernel
	for _, pick := range [][2]string{{"vpn0", "vpn0"}, {"eth0", "eth0"}, {"", "vpn0"}} {
		w.b.run(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`(s => { s.value = %q; s.dispatchEvent(new Event("change", {bubbles: true})) })(document.querySelector(".picker select"))`, pick[0])))
		save()
		want("interface "+pick[0], func(c conn.Snapshot) bool { return c.SplitTun != nil && c.SplitTun.Interface == pick[1] })
	}
}

// splitSwitch uses the one switch of the settings.
func (w *webRig) splitSwitch(t *testing.T, chosen string) {
	t.Helper()
	w.goTo("#/settings/split_tunnel")
	for _, on := range []bool{false, true} {
		w.b.click("label.switch|Use the split tunnel")
		r := w.rig
		r.eventually(t, startLimit, "connections follow the switch", func() bool {
			return w.fetch(chosen) == nil && (w.last(t, "chosen-curl").SplitTun != nil) == on
		})
		w.b.until("the switch shows it", fmt.Sprintf(`[...document.querySelectorAll("label.switch")].find(l => l.textContent.includes("Use the split tunnel"))?.querySelector("input").checked === %t`, on))
	}
}

// notification dismisses one: its state stays.
func (w *webRig) notification(t *testing.T) {
	t.Helper()
	w.cli(t, "pause", "10m")
	w.goTo("#/status")
	w.b.until("it is told by the stream", `document.querySelector(".notice")?.textContent.includes("Paused")`)
	w.b.until("the head of the page says so", `document.querySelector(".mode").textContent === "paused"`)
	w.look("notification")
	w.b.click(".notice button|Dismiss")
	w.b.until("it is gone", `![...document.querySelectorAll(".notice")].some(n => n.textContent.includes("Paused"))`)
	w.b.until("the state stays", `document.querySelector(".modules").textContent.includes("Paused")`)
	w.cli(t, "resume")
	w.b.until("the head of the page says so, too", `document.querySelector(".mode").textContent === "enforce"`)
}

// prompt answers a question on the page: for good, which writes a rule.
func (w *webRig) prompt(t *testing.T) {
	t.Helper()
	w.goTo("#/settings/rules")
	w.b.click(".rule-list button|Add rule")
	w.b.until("there is a rule", `document.querySelectorAll(".rule").length === 2`)
	set := func(label, value string) {
		w.b.run(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`(e => { e.value = %q; e.dispatchEvent(new Event("change", {bubbles: true})) })([...document.querySelectorAll(".rule")].at(-1).querySelectorAll(".field")[%d].querySelector("select, input"))`,
			value, map[string]int{"action": 0, "direction": 1, "destination": 2, "ports": 3}[label])))
	}
	set("action", "ask")
	set("direction", "out")
	set("ports", fmt.Sprint(splitTCPPort))
	w.b.click(".save button|Save rules")
	w.b.until("it is saved", `document.querySelector(".save .done")?.textContent.includes("Saved")`)
	copyProgram(t, "/usr/bin/curl", w.app("asker"))
	url := fmt.Sprintf("telnet://%s:%d", testnet.UplinkServerV4, splitTCPPort)
	asked := w.client.Start(t, w.app("asker"), "-sS", "-m", "30", url)
	defer asked.Kill()
	w.b.until("the page asks", fmt.Sprintf(`document.querySelector(".prompt")?.textContent.includes("asker wants to reach %s")`, testnet.UplinkServerV4))
	w.look("prompt")
	w.b.run(chromedp.Evaluate[chromedp.Void](`(e => { e.value = "always"; e.dispatchEvent(new Event("change", {bubbles: true})) })(document.querySelectorAll(".prompt select")[1])`))
	w.b.click(".prompt button|Allow")
	w.b.until("the question goes", `!document.querySelector(".prompt")`)
	w.rig.eventually(t, startLimit, "connections of the program are allowed", func() bool {
		_, _ = w.client.Try(w.app("asker"), "-sS", "-m", "2", url) // it waits for more than there is
		return w.conn(t, netip.MustParseAddr(testnet.UplinkServerV4), splitTCPPort, "--app", "asker").Decision.Verdict == verdict.Accept
	})
	text, err := os.ReadFile(w.configPath())
	if err != nil || !strings.Contains(string(text), testnet.UplinkServerV4) {
		t.Errorf("no rule was written (%v):\n%s", err, text)
	}
}

// underLoad has 200 connections a second come: all are counted, and few are drawn. How long its longest task was is told, and bounded
// by scripts/bench-web.sh, on a machine that does nothing else.
func (w *webRig) underLoad(t *testing.T) {
	t.Helper()
	seconds, limit := 3*time.Second, math.Inf(1)
	if benchmarks() {
		seconds, limit = 30*time.Second, 100
	}
	const rate = 200
	server := netip.MustParseAddr("203.0.113.99")
	w.goTo("#/connections?remote=" + server.String())
	w.b.until("the list is empty", `document.querySelector(".empty") && document.querySelectorAll(".row").length === 0`)
	w.watchTasks()
	ports := rate * int(seconds/time.Second)
	if _, err := w.client.Blast(t.Context(), testnet.Blast{To: netip.AddrPortFrom(server, 20_000), Ports: ports, Rate: rate, For: seconds}); err != nil {
		t.Fatal(err)
	}
	w.b.until("all are counted", fmt.Sprintf(`document.querySelector(".foot").textContent === %q`, count(ports)+" connections"))
	w.wantTasks(t, fmt.Sprintf("%d rows at %d a second", ports, rate), limit)
	if rows := js[int](w.b, `document.querySelectorAll(".row").length`); rows < 10 || rows > 60 {
		t.Errorf("%d rows are drawn; want those in view", rows)
	}
}

// count writes a number below a million as the page does.
func count(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

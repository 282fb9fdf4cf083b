package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// browser is a headless Chromium on a host, and what it complained about.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex // guards what follows
	problems []string
}

// debugPort is where Chromium is driven, in a namespace that has no other.
const debugPort = "9222"

// openBrowser starts a browser on a host; the end of the test ends it. What it asks of other hosts than own is a problem.
func openBrowser(t *testing.T, h *testnet.Host, own string) *browser {
	t.Helper()
	testutil.RequireTool(t, "chromium")
	home := t.TempDir()
	chromium := h.StartEnv(t, []string{"HOME=" + home}, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions",
		"--user-data-dir="+filepath.Join(home, "profile"), "--remote-debugging-port="+debugPort, "about:blank")
	t.Cleanup(chromium.Kill)
	proxy := forward(t, h, "127.0.0.1:"+debugPort)
	b := &browser{t: t}
	url := b.debugger(proxy)
	alloc, cancelAlloc := remote.NewAllocator(context.Background(), url, remote.NoModifyURL)
	t.Cleanup(cancelAlloc)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	b.ctx = ctx
	if err := chromedp.Listen(ctx, func(ev any) { b.hear(ev, own) }); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, cdplog.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// debugger waits for the browser and returns where it is driven.
func (b *browser) debugger(proxy string) string {
	b.t.Helper()
	var v struct {
		URL string `json:"webSocketDebuggerUrl"`
	}
	for begin := time.Now(); time.Since(begin) < startLimit; time.Sleep(pollPause) {
		res, err := http.Get("http://" + proxy + "/json/version")
		if err != nil {
			continue
		}
		err = json.NewDecoder(res.Body).Decode(&v)
		if closeErr := res.Body.Close(); err == nil && closeErr == nil && v.URL != "" {
			return v.URL
		}
	}
	b.t.Fatal("the browser does not answer")
	return ""
}

// forward listens in the test's own namespace and connects to an address of a host's. It returns where it listens.
func forward(t *testing.T, h *testnet.Host, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = l.Close() // Accept ends
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { pipe(ctx, h, c, to) })
		}
	})
	return l.Addr().String()
}

func pipe(ctx context.Context, h *testnet.Host, c net.Conn, to string) {
	defer c.Close() //nolint:errcheck // either side may be gone
	d, err := h.Dial(ctx, "tcp4", to)
	if err != nil {
		return
	}
	defer d.Close() //nolint:errcheck // either side may be gone
	stop := context.AfterFunc(ctx, func() {
		_ = c.Close() // both ends see it
		_ = d.Close()
	})
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(d, c) // until one side is gone
		_ = d.Close()
	}()
	_, _ = io.Copy(c, d) // as above
	_ = c.Close()
	<-done
}

// hear notes what must not happen: errors, and requests to anybody else.
func (b *browser) hear(ev any, own string) {
	note := func(format string, args ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.problems = append(b.problems, fmt.Sprintf(format, args...))
	}
	switch ev := ev.(type) {
	case *cdpruntime.EventExceptionThrown:
		note("exception: %s %+v", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception)
	case *cdpruntime.EventConsoleAPICalled:
		if ev.Type == cdpruntime.ConsoleAPICalledTypeError || ev.Type == cdpruntime.ConsoleAPICalledTypeWarning {
			text := ""
			for _, a := range ev.Args {
				text += " " + string(a.Value) + a.Description
			}
			note("console: %s", text)
		}
	case *cdplog.EventEntryAdded:
		if ev.Entry.Level == cdplog.EntryLevelError {
			note("log: %s %s", ev.Entry.Text, ev.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		url := ev.Request.URL
		if !strings.HasPrefix(url, own+"/") && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "blob:") && url != "about:blank" {
			note("request to %s", url)
		}
	}
}

func (b *browser) wantNoProblems() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		b.t.Error(p)
	}
	b.problems = nil
}

// run does something in the page, within the limit.
func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, startLimit)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.fatal("%v", err)
	}
}

// fatal ends the test, with what the page shows.
func (b *browser) fatal(format string, args ...any) {
	b.t.Helper()
	b.shot("failed")
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
	b.t.Fatalf("%s; the page says (%v):\n%s\n%q", fmt.Sprintf(format, args...), err, text, b.problems)
}

// js evaluates an expression.
func js[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, startLimit)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.fatal("%s: %v", expression[:min(len(expression), 80)], err)
	}
	return v
}

// until waits until an expression is true.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, startLimit)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void]("!!("+expression+")", chromedp.WithPollingInterval(50*time.Millisecond))); err != nil {
		b.fatal("wait until %s: %v", what, err)
	}
}

// click clicks what has this text, or is chosen by a selector in front of it: "button|Save".
func (b *browser) click(what string) {
	b.t.Helper()
	selector, text, _ := strings.Cut(what, "|")
	find := fmt.Sprintf(`[...document.querySelectorAll(%q)].find(e => e.textContent.includes(%q) || e.getAttribute("aria-label")?.includes(%q))`, selector, text, text)
	b.until("there is "+what, find)
	b.run(chromedp.Evaluate[chromedp.Void]("(" + find + ").click()"))
}

// size makes the window this wide, and light or dark.
func (b *browser) size(width int64, scheme string) {
	b.t.Helper()
	b.run(chromedp.EmulateViewport(width, 800))
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}); err != nil {
		b.t.Fatal(err)
	}
}

// shot keeps a picture, in bin/shots.
func (b *browser) shot(name string) {
	b.t.Helper()
	b.shotIn(filepath.Join("..", "..", "bin", "shots"), name)
}

// document keeps a picture in docs/img, if WEIR_SHOTS asks for new ones.
func (b *browser) document(name string) {
	b.t.Helper()
	if os.Getenv("WEIR_SHOTS") != "" {
		b.shotIn(filepath.Join("..", "..", "docs", "img"), name)
	}
}

func (b *browser) shotIn(dir, name string) {
	b.t.Helper()
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		picture, err = smaller(picture)
	}
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644)
	}
	if err != nil {
		b.t.Error(err)
	}
}

// smaller makes a PNG one of 256 colours: those that most of it has and that are not much alike, and for the rest the nearest of them.
func smaller(picture []byte) ([]byte, error) {
	src, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	often := map[color.RGBA]int{}
	at := src.Bounds()
	rgba := func(x, y int) color.RGBA { return color.RGBAModel.Convert(src.At(x, y)).(color.RGBA) } //nolint:forcetypeassert // what that model makes
	for y := at.Min.Y; y < at.Max.Y; y++ {
		for x := at.Min.X; x < at.Max.X; x++ {
			often[rgba(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(often), func(a, b color.RGBA) int { return often[b] - often[a] })
	palette, index := color.Palette{}, map[color.RGBA]uint8{}
	for _, c := range colours {
		if len(palette) == 0 || len(palette) < 256 && !alike(c, palette.Convert(c).(color.RGBA)) { //nolint:forcetypeassert // what is in there
			palette = append(palette, c)
		}
	}
	for _, c := range colours {
		index[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(at, palette)
	for y := at.Min.Y; y < at.Max.Y; y++ {
		for x := at.Min.X; x < at.Max.X; x++ {
			out.SetColorIndex(x, y, index[rgba(x, y)])
		}
	}
	var b bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, out)
	return b.Bytes(), err
}

// alike reports whether nobody sees a difference.
func alike(a, b color.RGBA) bool {
	d := func(a, b uint8) int { return (int(a) - int(b)) * (int(a) - int(b)) }
	return d(a.R, b.R)+d(a.G, b.G)+d(a.B, b.B) < 100
}

// axe looks for faults of accessibility that are serious or worse.
func (b *browser) axe(where string) {
	b.t.Helper()
	source, err := os.ReadFile(filepath.Join("..", "refd", "web", "testdata", "axe.min.js"))
	if err != nil {
		b.t.Fatal(err)
	}
	type fault struct {
		ID, Impact, Help string
		Nodes            []string
	}
	const script = `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.filter(v => v.impact === "serious" || v.impact === "critical").map(
		v => ({ID: v.id, Impact: v.impact, Help: v.help, Nodes: v.nodes.slice(0, 3).map(n => n.html + " " + n.failureSummary)})))`
	b.run(chromedp.Evaluate[chromedp.Void](string(source) + "; 0"))
	found := js[[]fault](b, script)
	for _, v := range found {
		b.t.Errorf("%s: %s fault %s: %s: %v", where, v.Impact, v.ID, v.Help, v.Nodes)
	}
}

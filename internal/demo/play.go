package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

// play is the demo from beginning to end.
type play struct {
	ctx   context.Context
	s     *stage
	out   *screen
	net   *network
	refd  *daemon
	ways  *ways // nil while client has one uplink only
	began time.Time
	acts  int
	wrong int
}

func newPlay(ctx context.Context, s *stage, out *screen) *play {
	return &play{ctx: ctx, s: s, out: out, began: time.Now()}
}

// perform plays it all. It ends early with the goroutine, by Fatalf.
func (p *play) perform() {
	testutil.RequireNFQUEUE(p.s)
	testutil.RequireTool(p.s, "ip", "nsenter", "unshare", "curl", "nc", "dig", "ping", "iperf3", "dnsmasq")
	p.out.title("weir: an application firewall, on a network of its own")
	p.prepare()
	before := p.net.client.Snapshot(p.s)
	p.enforce()
	p.change()
	p.measure()
	p.crash()
	p.observe()
	p.split()
	p.finish(before)
}

// check ends the play when somebody asked for it.
func (p *play) check() {
	if p.ctx.Err() != nil {
		p.s.Fatalf("interrupted")
	}
}

// prepare builds refd and the network.
func (p *play) prepare() {
	done := p.out.working("building refd and the network")
	p.net = build(p.s)
	p.refd = newDaemon(p.s, p.net.lab, p.net.client)
	done()
	p.check()
	p.out.say(plain, "Two hosts in network namespaces. The network of this machine is not touched, and nothing stays.")
	draw(p.out)
}

// enforce plays programs under rules.
func (p *play) enforce() {
	p.refd.configure(curlMayBrowse)
	p.out.title("The rules")
	p.out.verbatim(p.refd.policy(curlMayBrowse))
	took := p.refd.start(p.ctx)
	p.out.title("Mode enforce: what programs see, what refd decides, and why")
	p.out.say(dim, "refd runs and intercepts, %s after its start", short(took))
	p.heading("RULE: WHY; WHO")
	for _, sc := range enforceScenes() {
		p.scene(sc)
	}
}

// wide is from how many columns on a row of the table fits into one line.
const wide = 104

// row prints an act. It has these cells: right or wrong, program, what it saw, in which time, decision, why. The last one is a line of
// its own where the screen is narrow.
func (p *play) row(cells ...cell) {
	if p.out.width >= wide {
		decision := column(len("accepted"))
		if p.ways != nil {
			decision = column(len("split tunneled"))
		}
		p.out.row([]column{1, 26, 24, 6, decision, 0}, cells...)
		return
	}
	why := cells[len(cells)-1]
	p.out.row([]column{1, 28, 24, 6, 0}, cells[:len(cells)-1]...)
	p.out.row([]column{1, 0}, cell{}, cell{"└ " + why.text, dim})
}

func (p *play) heading(why string) {
	p.row(cell{}, cell{"PROGRAM", dim}, cell{"SAW", dim}, cell{"IN", dim}, cell{"REFD", dim}, cell{why, dim})
}

func (p *play) scene(sc scene) {
	if sc.title != "" {
		p.out.line()
		p.out.say(bold, "%s", sc.title)
	}
	for _, a := range sc.acts {
		p.act(a)
	}
}

// act runs one program and prints its row.
func (p *play) act(a act) {
	p.check()
	done := p.out.working(a.title)
	host := p.net.client
	if a.inbound {
		host = p.net.server
	}
	a.query.Since = time.Now()
	left := p.ways.watch(p, a)
	r := runProgram(p.ctx, host, a.argv(a.seconds()))
	p.check()
	c, err := p.refd.connection(p.ctx, a.query)
	done()
	p.acts++
	saw, text := a.sight(r)
	mark := cell{"✓", green}
	if err != nil || saw != a.saw || c.Verdict() != a.decision || c.Decision.Reason.Rule != a.rule {
		mark = cell{"✗", red}
		p.wrong++
		p.s.Errorf("%s: it saw %s, refd decided %v by rule %q (%v); want %s, %v, %q\n%s",
			a.title, saw, c.Verdict(), c.Decision.Reason.Rule, err, a.saw, a.decision, a.rule, r.output)
	}
	decision, why := cell{"?", red}, "no such connection"
	if err == nil {
		decision, why = verb(&c), because(&c)
	}
	if left != nil {
		text, ok := left()
		why = text + "; " + why
		if !ok {
			mark = cell{"✗", red}
			p.wrong++
			p.s.Errorf("%s: %s; want packets by %s alone", a.title, text, a.by)
		}
	}
	p.row(mark, cell{a.title, plain}, cell{text, plain}, cell{short(r.took), plain}, decision, cell{why, plain})
}

// verb is what refd decided.
func verb(c *conn.Snapshot) cell {
	v := c.Verdict()
	switch {
	case !c.Enforced && v.Refuses():
		return cell{"would be " + v.Verb(), yellow}
	case v.Allows():
		return cell{v.Verb(), green}
	}
	return cell{v.Verb(), red}
}

// because says why, and about whom.
func because(c *conn.Snapshot) string {
	why := strings.TrimPrefix(c.Decision.Reason.Text, "no rule matches; the ")
	if rule := c.Decision.Reason.Rule; rule != "" {
		why = rule + ": " + why
	}
	who := "unknown process"
	if c.Process != nil {
		who = fmt.Sprintf("%s[%d]", c.Process.Name(), c.Process.PID)
	}
	return why + "; " + who
}

// crash kills refd: an enforcing firewall fails closed.
func (p *play) crash() {
	p.check()
	p.out.title("refd is killed (kill -9)")
	p.refd.kill()
	a := nc("web.demo", webV4, otherPort).comesTo(silence, verdict.Undecided, "")
	r := runProgram(p.ctx, p.net.client, a.argv(a.seconds()))
	p.check()
	saw, text := a.sight(r)
	p.note(fmt.Sprintf("%s: %s after %s. What had not been allowed for good does not pass: it fails closed.",
		a.title, text, short(r.took)), saw == silence)
}

// observe starts refd again, in the mode for newcomers.
func (p *play) observe() {
	p.check()
	p.refd.configure(curlMayBrowse)
	took := p.refd.start(p.ctx, "--mode", "observe")
	p.out.title("Mode observe: the same rules, computed and shown, and everything passes")
	p.out.say(dim, "refd takes over from the killed one and intercepts, %s after its start", short(took))
	p.heading("RULE: WHY; WHO")
	p.scene(observeScene())
	p.refd.stop()
}

// finish compares the client with what it was.
func (p *play) finish(before string) {
	p.check()
	p.out.title("The end")
	diff := testnet.Diff(before, p.net.client.Snapshot(p.s))
	p.note("refd has stopped; packet filter, routes, rules and kernel settings of client are as they were, to the byte.", diff == "")
	if diff != "" {
		p.out.verbatim(diff)
	}
	result, st := fmt.Sprintf("%d programs and checks, all as expected", p.acts), green
	if p.wrong > 0 {
		result, st = fmt.Sprintf("%d of %d programs and checks came to something else", p.wrong, p.acts), red
	}
	p.out.say(st, "%s, in %s.", result, short(time.Since(p.began)))
	p.out.say(dim, "On this machine: sudo make run, and in a second terminal: sudo bin/refd conns --watch")
}

// note prints a sentence, which is right if all of holds are.
func (p *play) note(text string, holds ...bool) {
	p.acts++
	mark := cell{"✓", green}
	if slices.Contains(holds, false) {
		mark = cell{"✗", red}
		p.wrong++
		p.s.Errorf("not so: %s", text)
	}
	p.out.row([]column{1, 0}, mark, cell{text, plain})
}

func portText(port uint16) string { return strconv.Itoa(int(port)) }

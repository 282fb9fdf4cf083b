package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

// background is a program that runs beside the play.
type background struct {
	done chan struct{}
	res  result // written before done is closed
}

// start runs a program on the client beside the play, and ends it with that.
func (p *play) start(argv ...string) *background {
	b := &background{done: make(chan struct{})}
	ctx, cancel := context.WithCancel(p.ctx)
	go func() {
		defer close(b.done)
		b.res = runProgram(ctx, p.net.client, argv)
	}()
	p.s.Cleanup(func() {
		cancel()
		<-b.done
	})
	return b
}

// wait returns what the program left.
func (b *background) wait() result {
	<-b.done
	return b.res
}

// pause lets time pass, unless the play is to end.
func (p *play) pause(d time.Duration) {
	select {
	case <-p.ctx.Done():
	case <-time.After(d):
	}
	p.check()
}

// change changes a rule while programs transfer data.
func (p *play) change() {
	p.check()
	p.out.title("A rule changes while programs run")
	began := time.Now()
	done := p.out.working("curl and iperf3 transfer data")
	film := p.start("curl", "-4", "-sS", "-m", "8", "-o", "/dev/null", "-w", "%{size_download}", "http://web.demo/film")
	upload := p.start("iperf3", "--client", "web.demo", "--port", strconv.Itoa(iperfPort), "--time", "2", "--bitrate", "40M", "--json")
	p.pause(time.Second)
	q := connstore.Query{App: p.refd.curl, Since: began, Life: connstore.OnlyLive}
	c, err := p.refd.connection(p.ctx, q)
	done()
	p.note("curl downloads http://web.demo/film, which is accepted; iperf3 uploads beside it.",
		err == nil, c.Verdict() == verdict.Accept)

	p.refd.configure(curlMayNot)
	changed := time.Now()
	r := p.refd.reload(p.ctx)
	// More than one: the kernel remembers connections that have ended for two minutes.
	p.note(fmt.Sprintf("The rule of curl becomes “no more curl”; refd reload decides anew. Verdicts that changed: %d.", r.Changed), r.Changed >= 1)
	cut := film.wait()
	after := time.Since(changed)
	p.check()
	saw, text := curlSight(cut)
	p.note(fmt.Sprintf("curl: %s, %s after the change.", text, short(after)), saw == refused)
	q.Life = connstore.LiveAndEnded
	c, err = p.refd.connection(p.ctx, q)
	p.note(fmt.Sprintf("refd: %s by %s.", c.Verdict().Verb(), because(&c)), err == nil, c.Verdict() == verdict.Block)

	done = p.out.working("iperf3 goes on")
	up, err := parseIperf(upload.wait())
	done()
	p.check()
	p.note(fmt.Sprintf("iperf3 noticed nothing: %.1f MB in %.1f s.", up.bytes/1e6, up.seconds), err == nil, up.seconds > 1.5)
}

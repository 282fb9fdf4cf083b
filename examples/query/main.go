// Command query asks a running refd for connections, and prints them with what was decided about each, and why.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"text/tabwriter"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "query:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var q connstore.Query
	flags := flag.NewFlagSet("query", flag.ContinueOnError)
	flags.SetOutput(out)
	socket := flags.String("socket", "/run/weir/refd.sock", "where refd answers")
	flags.StringVar(&q.App, "app", "", "only programs with this in their path")
	flags.TextVar(&q.Remote, "remote", netip.Prefix{}, "only remote addresses in this network")
	flags.IntVar(&q.Limit, "limit", 20, "at most so many; 0 is all")
	refused := flags.Bool("refused", false, "only what was not let through")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	if *refused {
		q.Verdicts = []verdict.Verdict{verdict.Block, verdict.Drop, verdict.Failed}
	}
	page, err := ask(ctx, *socket, q)
	if err != nil {
		return err
	}
	return show(out, page)
}

// ask sends a query to refd. Its API is HTTP with JSON, on a unix socket that only root may use.
func ask(ctx context.Context, socket string, q connstore.Query) (page connstore.Page, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return page, fmt.Errorf("write the query: %w", err)
	}
	// The host name in the address is not looked up: Dial goes to the socket.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://refd/api/v1/connections/query", bytes.NewReader(body))
	if err != nil {
		return page, fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json") // refd takes nothing else: no other page's form can be that
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		return page, fmt.Errorf("ask refd: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	if res.StatusCode != http.StatusOK {
		var problem struct{ Error string }
		if err := json.NewDecoder(res.Body).Decode(&problem); err != nil {
			return page, fmt.Errorf("refd answered %s", res.Status)
		}
		return page, fmt.Errorf("refd: %s", problem.Error)
	}
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil {
		return page, fmt.Errorf("read refd's answer: %w", err)
	}
	return page, nil
}

// show prints a page. It does not matter whether it came from refd or from a store of one's own.
func show(out io.Writer, page connstore.Page) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROGRAM\tDIRECTION\tPROTOCOL\tREMOTE\tDECISION\tBECAUSE")
	for _, s := range page.Connections {
		program := s.Process.Name()
		if program == "" {
			program = "?"
		}
		decision := s.Decision.Verdict.Verb()
		if !s.Enforced {
			decision += " (observed only)"
		}
		fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%s\t%s\n", program, s.Direction, s.Tuple.Protocol, s.Tuple.Remote, decision, s.Decision.Reason.Text)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	_, err := fmt.Fprintf(out, "%d of %d connections\n", len(page.Connections), page.Total)
	for _, v := range verdict.All() {
		if n := page.ByVerdict[v]; n > 0 {
			fmt.Fprintf(out, "%d %s\n", n, v.Verb())
		}
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

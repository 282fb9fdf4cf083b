// Command quic talks QUIC, which is UDP that keeps a connection's state in both ends:
//
//	quic serve ADDR...   answers what it is sent, until it is ended; prints "serving" when it does
//	quic talk SIZE ADDR  sends so many bytes on two streams at once and wants them back
//
// It has a go.mod of its own: nothing else here needs quic-go.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	patience = 15 * time.Second
	protocol = "weir-test"
	streams  = 2
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("ok")
}

func run(args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "serve":
		return serve(args[1:])
	case len(args) == 3 && args[0] == "talk":
		size, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return talk(size, args[2])
	}
	return errors.New("usage: quic serve ADDR... | quic talk SIZE ADDR")
}

func serve(addrs []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	conf := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
		NextProtos:   []string{protocol},
	}
	failed := make(chan error, len(addrs))
	for _, addr := range addrs {
		l, err := quic.ListenAddr(addr, conf, nil)
		if err != nil {
			return err
		}
		go func() { failed <- accept(l) }()
	}
	fmt.Println("serving")
	return <-failed
}

func accept(l *quic.Listener) error {
	for {
		c, err := l.Accept(context.Background())
		if err != nil {
			return err
		}
		go func() {
			for {
				s, err := c.AcceptStream(context.Background())
				if err != nil {
					return // the client has gone
				}
				go func() {
					_, _ = io.Copy(s, s)
					_ = s.Close()
				}()
			}
		}()
	}
}

func talk(size int, addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	//nolint:gosec // the server makes its certificate when it starts
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}
	c, err := quic.DialAddr(ctx, addr, conf, nil)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	failed := make(chan error, streams)
	for i := range streams {
		go func() { failed <- echo(ctx, c, bytes.Repeat([]byte{byte(i + 1)}, size)) }()
	}
	for range streams {
		if err := <-failed; err != nil {
			return err
		}
	}
	return c.CloseWithError(0, "")
}

// echo wants back what it sends.
func echo(ctx context.Context, c *quic.Conn, sent []byte) error {
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		_, err := s.Write(sent)
		failed <- errors.Join(err, s.Close())
	}()
	got, err := io.ReadAll(s)
	if err := errors.Join(err, <-failed); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("got %d other bytes back; want %d", len(got), len(sent))
	}
	return nil
}

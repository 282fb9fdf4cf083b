package nfq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftConn is a netlink socket to nf_tables. Its tables are those that it made with nftOwner, until it is closed. It is for one
// user at a time.
type nftConn struct {
	c *netlink.Conn
}

// nftTimeout bounds an answer of the kernel, which comes at once or not at all.
const nftTimeout = 10 * time.Second

func dialNFT() (*nftConn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	return &nftConn{c: c}, nil
}

func (n *nftConn) close() error {
	if err := n.c.Close(); err != nil {
		return fmt.Errorf("close netfilter netlink: %w", err)
	}
	return nil
}

// nftMessage returns a message; data begins with struct nfgenmsg.
func nftMessage(typ uint16, flags netlink.HeaderFlags, family uint8, attrs ...[]byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ), Flags: netlink.Request | flags},
		Data:   slices.Concat(append([][]byte{{family, 0, 0, 0}}, attrs...)...),
	}
}

func batchMark(typ netlink.HeaderType, attrs ...byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request},
		Data:   append([]byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES}, attrs...),
	}
}

// batch sends messages as one transaction: all of them take effect, or none. It returns the errors of those that failed.
func (n *nftConn) batch(msgs ...netlink.Message) error {
	return n.transact(batchMark(unix.NFNL_MSG_BATCH_BEGIN), msgs)
}

// batchAt is batch, but the kernel refuses with ERESTART if anything was changed since generation.
func (n *nftConn) batchAt(generation uint32, msgs ...netlink.Message) error {
	return n.transact(batchMark(unix.NFNL_MSG_BATCH_BEGIN, nftUint32(unix.NFNL_BATCH_GENID, generation)...), msgs)
}

func (n *nftConn) transact(begin netlink.Message, msgs []netlink.Message) error {
	all := []netlink.Message{begin}
	for _, m := range msgs {
		m.Header.Flags |= netlink.Acknowledge
		all = append(all, m)
	}
	all = append(all, batchMark(unix.NFNL_MSG_BATCH_END))
	if err := n.c.SetReadDeadline(time.Now().Add(nftTimeout)); err != nil {
		return fmt.Errorf("nf_tables deadline: %w", err)
	}
	if _, err := n.c.SendMessages(all); err != nil {
		return fmt.Errorf("send nf_tables transaction: %w", err)
	}
	// Every message is answered, whether or not the transaction as a whole works.
	var errs []error
	for range msgs {
		if _, err := n.c.Receive(); err != nil {
			errs = append(errs, err)
			if errors.Is(err, unix.ERESTART) || isTimeout(err) {
				break // the transaction was refused as a whole, with one answer
			}
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("nf_tables transaction: %w", errs[0])
	}
	return nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// baseChain is a chain that hangs at a hook.
type baseChain struct {
	Family uint8
	Table  string
	Chain  string
	// dump only
	accepts bool
	use     uint32
}

// key is what is remembered of it.
func (b baseChain) key() string { return fmt.Sprintf("%d/%s/%s", b.Family, b.Table, b.Chain) }

// nftTable is a table as a dump tells.
type nftTable struct {
	Family uint8
	Name   string
	use    uint32 // chains, sets and other objects in it
}

func (t nftTable) key() string { return fmt.Sprintf("%d/%s", t.Family, t.Name) }

// tables lists the tables of one family.
func (n *nftConn) tables(family uint8) ([]nftTable, error) {
	var list []nftTable
	err := n.dump(nftMsgGetTable, family, func(ad *netlink.AttributeDecoder) {
		t := nftTable{Family: family}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				t.Name = ad.String()
			case unix.NFTA_TABLE_USE:
				t.use = ad.Uint32()
			}
		}
		list = append(list, t)
	})
	return list, err
}

// baseChains lists the chains of one family that hang at a hook.
func (n *nftConn) baseChains(family uint8) ([]baseChain, error) {
	var list []baseChain
	err := n.dump(nftMsgGetChain, family, func(ad *netlink.AttributeDecoder) {
		c, hooked := baseChain{Family: family}, false
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				c.Table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				c.Chain = ad.String()
			case unix.NFTA_CHAIN_HOOK:
				hooked = true
			case unix.NFTA_CHAIN_POLICY:
				c.accepts = ad.Uint32() == nftAccept
			case unix.NFTA_CHAIN_USE:
				c.use = ad.Uint32()
			}
		}
		if hooked {
			list = append(list, c)
		}
	})
	return list, err
}

func (n *nftConn) dump(typ uint16, family uint8, each func(*netlink.AttributeDecoder)) error {
	if err := n.c.SetReadDeadline(time.Now().Add(nftTimeout)); err != nil {
		return fmt.Errorf("nf_tables deadline: %w", err)
	}
	msgs, err := n.c.Execute(nftMessage(typ, netlink.Dump, family))
	if err != nil {
		return fmt.Errorf("list nf_tables: %w", err)
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return fmt.Errorf("list nf_tables: %w", err)
		}
		ad.ByteOrder = binary.BigEndian
		each(ad)
		if err := ad.Err(); err != nil {
			return fmt.Errorf("list nf_tables: %w", err)
		}
	}
	return nil
}

// generation returns the number of the rules' current state.
func (n *nftConn) generation() (uint32, error) {
	if err := n.c.SetReadDeadline(time.Now().Add(nftTimeout)); err != nil {
		return 0, fmt.Errorf("nf_tables deadline: %w", err)
	}
	msgs, err := n.c.Execute(nftMessage(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC))
	if err != nil {
		return 0, fmt.Errorf("read nf_tables generation: %w", err)
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("read nf_tables generation: %w", err)
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("read nf_tables generation: no answer")
}

// ownTable is a table of ours in nf_tables: the backstop, or the guard of split routes.
type ownTable struct {
	name string
	conn *nftConn
	// owned tells that nobody else can take it away.
	owned bool
}

// nftChain is a chain of such a table.
type nftChain struct {
	name     string
	hook     int // -1 for none: it is jumped to
	priority int32
	rules    []nftRule
}

func openTable(name string) (*ownTable, error) {
	conn, err := dialNFT()
	if err != nil {
		return nil, err
	}
	return &ownTable{name: name, conn: conn}, nil
}

func (b *ownTable) table(typ uint16, flags netlink.HeaderFlags, tableFlags uint32) netlink.Message {
	attrs := [][]byte{nftString(unix.NFTA_TABLE_NAME, b.name)}
	if tableFlags != 0 {
		attrs = append(attrs, nftUint32(unix.NFTA_TABLE_FLAGS, tableFlags))
	}
	return nftMessage(typ, flags, nfprotoInet, attrs...)
}

// set makes the table hold chains, always the same ones, in one transaction, and takes it over from a process that is gone. The error wraps ErrInUse if
// another process lives that owns it.
func (b *ownTable) set(chains []nftChain) error {
	owner := b.table(nftMsgNewTable, netlink.Create, nftOwner|nftPersist)
	if b.owned {
		owner = b.table(nftMsgNewTable, 0, nftOwner|nftPersist)
	}
	content := b.content(chains)
	err := b.conn.batch(append([]netlink.Message{owner}, content...)...)
	if err == nil {
		b.owned = true
		return nil
	}
	if errors.Is(err, unix.EPERM) {
		return b.inUse(err)
	}
	// Left there by a kernel or a version of us that knew no owners: it cannot be given one.
	plain := b.table(nftMsgNewTable, netlink.Create, 0)
	anew := append([]netlink.Message{plain, b.table(nftMsgDelTable, 0, 0), owner}, content...)
	if again := b.conn.batch(anew...); again == nil {
		b.owned = true
		return nil
	}
	if plainErr := b.conn.batch(append([]netlink.Message{plain}, content...)...); plainErr != nil {
		return fmt.Errorf("load nftables table %s: %w", b.name, errors.Join(err, plainErr))
	}
	b.owned = false
	return nil
}

func (b *ownTable) inUse(err error) error {
	return &HostError{
		Kind: ErrInUse, What: "another process owns the nftables table " + b.name, Err: err,
		Remedy: "stop it, or give this one another chain prefix and other table names",
	}
}

// content fills the table's chains anew. Chains come before those that jump to them.
func (b *ownTable) content(chains []nftChain) []netlink.Message {
	var msgs []netlink.Message
	for _, c := range chains {
		attrs := [][]byte{nftString(unix.NFTA_CHAIN_TABLE, b.name), nftString(unix.NFTA_CHAIN_NAME, c.name)}
		if c.hook >= 0 {
			attrs = append(attrs,
				nftNest(unix.NFTA_CHAIN_HOOK, nftUint32(1, uint32(c.hook)), nftUint32(2, uint32(c.priority))),
				nftUint32(unix.NFTA_CHAIN_POLICY, nftAccept), nftString(unix.NFTA_CHAIN_TYPE, "filter"))
		}
		of := nftString(unix.NFTA_RULE_CHAIN, c.name)
		msgs = append(msgs, nftMessage(nftMsgNewChain, netlink.Create, nfprotoInet, attrs...),
			nftMessage(nftMsgDelRule, 0, nfprotoInet, nftString(unix.NFTA_RULE_TABLE, b.name), of))
	}
	for _, c := range chains {
		for _, r := range c.rules {
			msgs = append(msgs, nftMessage(nftMsgNewRule, netlink.Create|netlink.Append, nfprotoInet,
				nftString(unix.NFTA_RULE_TABLE, b.name), nftString(unix.NFTA_RULE_CHAIN, c.name),
				nftNest(unix.NFTA_RULE_EXPRESSIONS, r...)))
		}
	}
	return msgs
}

// present reports whether the table is there.
func (b *ownTable) present() (bool, error) {
	list, err := b.conn.tables(nfprotoInet)
	return slices.ContainsFunc(list, func(t nftTable) bool { return t.Name == b.name }), err
}

// remove deletes the table if it is there. The error wraps ErrInUse if another process lives that owns it.
func (b *ownTable) remove() error {
	there, err := b.present()
	if err != nil || !there {
		return err
	}
	if err := b.conn.batch(b.table(nftMsgDelTable, 0, 0)); errors.Is(err, unix.EPERM) {
		return b.inUse(err)
	} else if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table %s: %w", b.name, err)
	}
	return nil
}

// close lets go of the table. It stays.
func (b *ownTable) close() error { return b.conn.close() }

// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Who owns a connection, told by the kernel when it is made, without kprobes, fentry and LSM hooks, which many kernels refuse.
 *
 *   tuples  addresses and ports  -> owner    what a firewall asks for
 *   socks   socket cookie        -> owner    who made, connected or used a datagram socket last
 *   procs   process              -> state    which image it runs, whether it has ended
 *   images  image                -> path, working directory, arguments: they outlive the process
 *   usage   addresses and ports  -> bytes since user space took the entry away
 *   events  what user space has to hear of
 *
 * A process is named by its number and its start, so that a number that is used again is another process; an image by a number
 * that each exec gets anew. Programs that only observe: none refuses anything.
 */
#include "kern.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define FLAG_SHARED 1 /* several processes use it: nobody can say whose a packet is */
#define FLAG_CLOSED 2
#define FLAG_TUPLE 4 /* a connected datagram socket whose tuple is known */
#define FLAG_SEEDED 8 /* found at the start, not seen when it was made */

#define EVENT_EXEC 1
#define EVENT_EXIT 2
#define EVENT_MOVED 3
#define EVENT_END 4

#define NAME_ROOM 256
#define PATH_ROOM 512
#define ARGS_ROOM 512
#define MAX_NAMES 40
#define MAX_PID_LEVELS 8

#define PATH_UNKNOWN 0xffff
#define IMAGE_DELETED 1
#define IMAGE_PSEUDO 2
#define IMAGE_HERE 4 /* its mount is in the host's mount namespace */

/* How long another process' use of the same socket makes a tuple ambiguous. */
#define SHARING_NS 2000000000ull

/* The inode of our pid namespace, 0 if it is the first one, and of the host's mount namespace; the cookie of our network namespace; our
 * process. */
const volatile __u32 own_pidns = 0;
const volatile __u32 host_mntns = 0;
const volatile __u32 own_tgid = 0;
const volatile __u64 own_netns = 0;
/* Whether programs for packets may ask for a network namespace (Linux 6.15). Where not, others' bytes are counted too, under their own
 * addresses, which are hardly ever ours. */
const volatile bool packets_know_netns = 0;

struct owner {
	__u64 cookie, ts, exec, start, cgroup;
	__u32 tgid, pid, uid;
	__u8 flags, foreign, pad[2];
};
struct tuple {
	__u32 saddr[4], daddr[4];
	__u16 sport, dport;
	__u8 proto, family, foreign, pad;
};
struct proc_key { __u64 start; __u32 tgid, pad; };
struct proc_state {
	__u64 exec, exited, parent_start;
	__u32 parent_tgid, pid, uid, known; /* known: it has owned a connection */
};
struct image {
	__u64 ino; /* of the file, which with dev tells whether it is the one at that path */
	__u32 dev, pad, path_len, cwd_len, args_len, flags;
	__u8 path[PATH_ROOM + NAME_ROOM], cwd[PATH_ROOM + NAME_ROOM], args[ARGS_ROOM];
};
struct bytes { __u64 sent, received; };
struct event { __u32 kind, pid; __u64 start, ts; struct tuple tuple; };
struct task_row { __u64 exec, start; __u32 pid, pad; };

/* Only so that the object describes these types, of which Go declarations are made. */
struct event *const volatile described_event = 0;
struct task_row *const volatile described_row = 0;

struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 65536); __type(key, __u64); __type(value, struct owner); } socks SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 65536); __type(key, struct tuple); __type(value, struct owner); } tuples SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 32768); __type(key, struct proc_key); __type(value, struct proc_state); } procs SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 4096); __type(key, __u64); __type(value, struct image); } images SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 65536); __type(key, struct tuple); __type(value, struct bytes); } usage SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct image); } blank SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u64); } losses SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1 << 20); } events SEC(".maps");

/* ns_pid is the number of a process in our pid namespace, 0 if it is not in there. */
static __always_inline __u32 ns_pid(struct task_struct *leader, __u32 tgid)
{
	if (!own_pidns)
		return tgid;
	struct pid *p = BPF_CORE_READ(leader, thread_pid);
	__u32 level = BPF_CORE_READ(p, level);
	for (__u32 i = 0; i < MAX_PID_LEVELS; i++) {
		if (i > level)
			break;
		struct upid *u = (void *)p + bpf_core_field_offset(struct pid, numbers) + i * bpf_core_type_size(struct upid);
		if (BPF_CORE_READ(u, ns, ns.inum) == own_pidns)
			return BPF_CORE_READ(u, nr);
	}
	return 0;
}

/* who describes the process that runs now; false if it is none of user space. */
static __always_inline bool who(struct owner *o, __u64 cookie)
{
	struct task_struct *t = bpf_get_current_task_btf();
	__builtin_memset(o, 0, sizeof *o);
	if (t->flags & PF_KTHREAD)
		return false;
	struct task_struct *leader = t->group_leader;
	const struct cred *cred = t->cred;
	struct css_set *css = t->cgroups;
	if (!leader || !cred || !css)
		return false;
	o->cookie = cookie;
	o->ts = bpf_ktime_get_ns();
	o->tgid = t->tgid;
	o->start = leader->start_boottime;
	o->pid = ns_pid(leader, o->tgid);
	o->uid = cred->euid.val;
	o->cgroup = css->dfl_cgrp->kn->id;
	struct proc_key k = { .start = o->start, .tgid = o->tgid };
	struct proc_state *p = bpf_map_lookup_elem(&procs, &k);
	if (p) {
		o->exec = p->exec;
		p->known = 1;
	}
	return true;
}

#define LOST_BYTES 0
#define LOST_EVENTS 1

static __always_inline void lose(__u32 what, __u64 n)
{
	__u64 *lost = bpf_map_lookup_elem(&losses, &what);
	if (lost)
		__sync_fetch_and_add(lost, n);
}

static __always_inline void tell(__u32 kind, __u32 pid, __u64 start, const struct tuple *t)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof *e, 0);
	if (!e) {
		lose(LOST_EVENTS, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof *e);
	e->kind = kind;
	e->pid = pid;
	e->start = start;
	e->ts = bpf_ktime_get_ns();
	if (t)
		e->tuple = *t;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

static __always_inline __u8 is_foreign(__u64 netns) { return own_netns && netns != own_netns; }

static __always_inline bool same_process(const struct owner *a, const struct owner *b)
{
	return a->tgid == b->tgid && a->start == b->start && a->exec == b->exec;
}

/* keep stores whose a tuple is. If somebody else was it a moment ago, and his socket is still there, nobody is. That others go on with a
 * socket is told when they begin to, and not while they take turns: once in SHARING_NS at most. */
static __always_inline void keep(const struct tuple *t, struct owner *o)
{
	struct owner *old = bpf_map_lookup_elem(&tuples, t);
	if (!old) {
		bpf_map_update_elem(&tuples, t, o, BPF_ANY);
		return;
	}
	bool late = o->ts - old->ts >= SHARING_NS, same_socket = old->cookie == o->cookie;
	if (same_process(old, o)) {
		if (same_socket && old->uid == o->uid && !(old->flags & FLAG_SHARED)) {
			old->ts = o->ts; /* the moment that others are measured by */
			return;
		}
		if (same_socket && old->uid == o->uid && !late)
			return;
	} else {
		if (t->proto != IPPROTO_TCP && !late) {
			struct owner *sock = same_socket ? old : bpf_map_lookup_elem(&socks, &old->cookie);
			if (sock && !(sock->flags & FLAG_CLOSED))
				o->flags |= FLAG_SHARED;
		}
		if (same_socket && !t->foreign && !(old->flags & FLAG_SHARED))
			tell(EVENT_MOVED, o->pid, o->start, t);
	}
	bpf_map_update_elem(&tuples, t, o, BPF_ANY);
}

SEC("cgroup/sock_create") int sock_create(struct bpf_sock *c)
{
	struct owner o;
	if (c->type != SOCK_DGRAM || !who(&o, bpf_get_socket_cookie(c)))
		return 1;
	o.foreign = is_foreign(bpf_get_netns_cookie(c));
	bpf_map_update_elem(&socks, &o.cookie, &o, BPF_ANY);
	return 1;
}

SEC("cgroup/sock_release") int sock_release(struct bpf_sock *c)
{
	if (c->type != SOCK_DGRAM)
		return 1;
	__u64 cookie = bpf_get_socket_cookie(c);
	struct owner *o = bpf_map_lookup_elem(&socks, &cookie);
	if (o)
		o->flags |= FLAG_CLOSED;
	return 1;
}

/* Whose a TCP connection is, is noted with its port: tcp_connect. */
static __always_inline int connects(struct bpf_sock_addr *c)
{
	struct owner o;
	if (c->type != SOCK_DGRAM || !who(&o, bpf_get_socket_cookie(c)))
		return 1;
	o.foreign = is_foreign(bpf_get_netns_cookie(c));
	bpf_map_update_elem(&socks, &o.cookie, &o, BPF_ANY);
	return 1;
}
SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *c) { return connects(c); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *c) { return connects(c); }

/* A datagram to an address of its own: the local port is bound here. The source address is that which the socket is bound to or the program
 * asks for; else it is not chosen yet and stays zero. */
static __always_inline int sends(struct bpf_sock_addr *c, __u8 family)
{
	struct owner o;
	struct tuple t = { .proto = IPPROTO_UDP, .family = family };
	struct bpf_sock *sk = c->sk;
	if (!sk || c->protocol != IPPROTO_UDP || !who(&o, bpf_get_socket_cookie(c)))
		return 1;
	t.foreign = o.foreign = is_foreign(bpf_get_netns_cookie(c));
	t.sport = sk->src_port;
	t.dport = bpf_ntohs((__u16)c->user_port);
	if (family == AF_INET6) {
		t.daddr[0] = c->user_ip6[0];
		t.daddr[1] = c->user_ip6[1];
		t.daddr[2] = c->user_ip6[2];
		t.daddr[3] = c->user_ip6[3];
		t.saddr[0] = c->msg_src_ip6[0];
		t.saddr[1] = c->msg_src_ip6[1];
		t.saddr[2] = c->msg_src_ip6[2];
		t.saddr[3] = c->msg_src_ip6[3];
	} else {
		t.daddr[0] = c->user_ip4;
		t.saddr[0] = c->msg_src_ip4;
	}
	keep(&t, &o);
	return 1;
}
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *c) { return sends(c, AF_INET); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *c) { return sends(c, AF_INET6); }

/* Inside connect(2), when the source port is chosen and before the SYN leaves. */
SEC("sockops") int tcp_connect(struct bpf_sock_ops *c)
{
	if (c->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	struct owner o;
	struct tuple t = { .proto = IPPROTO_TCP };
	__u64 cookie = bpf_get_socket_cookie(c);
	t.foreign = is_foreign(bpf_get_netns_cookie(c));
	t.sport = c->local_port;
	t.dport = bpf_ntohl(c->remote_port);
	/* The peer of an IPv6 socket may be IPv4: so is the wire then. */
	if (c->family == AF_INET || (!c->remote_ip6[0] && !c->remote_ip6[1] && c->remote_ip6[2] == bpf_htonl(0xffff))) {
		t.family = AF_INET;
		t.saddr[0] = c->local_ip4;
		t.daddr[0] = c->remote_ip4;
	} else {
		t.family = AF_INET6;
		t.saddr[0] = c->local_ip6[0];
		t.saddr[1] = c->local_ip6[1];
		t.saddr[2] = c->local_ip6[2];
		t.saddr[3] = c->local_ip6[3];
		t.daddr[0] = c->remote_ip6[0];
		t.daddr[1] = c->remote_ip6[1];
		t.daddr[2] = c->remote_ip6[2];
		t.daddr[3] = c->remote_ip6[3];
	}
	if (!who(&o, cookie)) {
		/* the kernel's own: what an earlier connection left must not speak for it */
		bpf_map_delete_elem(&tuples, &t);
		return 1;
	}
	o.foreign = t.foreign;
	keep(&t, &o);
	return 1;
}

/* sent_by notes who sends on a connected datagram socket. The socket's maker and his children are believed; who else it is may
 * only hand on what somebody else sent, such as a program that packets were queued to. */
static __always_inline void sent_by(struct owner *sock, struct tuple *t)
{
	struct owner o;
	if (!who(&o, sock->cookie) || (t->foreign && o.tgid == own_tgid))
		return;
	if ((sock->flags & FLAG_TUPLE) && same_process(sock, &o))
		return;
	o.foreign = t->foreign;
	if (o.tgid != sock->tgid) {
		struct task_struct *cur = (void *)bpf_get_current_task();
		if (BPF_CORE_READ(cur, group_leader, real_parent, tgid) != sock->tgid)
			o.flags |= FLAG_SHARED;
	}
	keep(t, &o);
	if (o.tgid == sock->tgid) {
		sock->exec = o.exec;
		sock->flags |= FLAG_TUPLE;
	}
}

/* Connected datagram sockets have no port yet when they connect, and pass no other hook when they send. This one comes before the
 * rules that queue packets. */
SEC("netfilter") int local_out(struct bpf_nf_ctx *c)
{
	struct sock *sk = c->skb->sk;
	if (!sk || sk->sk_protocol != IPPROTO_UDP)
		return 1;
	struct tuple t = { .proto = IPPROTO_UDP };
	t.dport = bpf_ntohs(sk->__sk_common.skc_dport);
	__u64 cookie = sk->__sk_common.skc_cookie.counter;
	if (!t.dport || !cookie)
		return 1;
	struct owner *sock = bpf_map_lookup_elem(&socks, &cookie);
	if (!sock)
		return 1;
	t.sport = sk->__sk_common.skc_num;
	t.family = c->state->pf;
	if (t.family == AF_INET6) {
		for (int i = 0; i < 4; i++) {
			t.saddr[i] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			t.daddr[i] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i];
		}
	} else {
		t.saddr[0] = sk->__sk_common.skc_rcv_saddr;
		t.daddr[0] = sk->__sk_common.skc_daddr;
	}
	sent_by(sock, &t);
	return 1;
}

/* fill_tuple writes the addresses of a socket with a peer, as they are on the wire. */
static __always_inline void fill_tuple(struct tuple *t, struct bpf_sock *sk, bool v4)
{
	t->sport = sk->src_port;
	t->dport = bpf_ntohs(sk->dst_port);
	if (v4) {
		t->family = AF_INET;
		t->saddr[0] = sk->src_ip4;
		t->daddr[0] = sk->dst_ip4;
	} else {
		t->family = AF_INET6;
		t->saddr[0] = sk->src_ip6[0];
		t->saddr[1] = sk->src_ip6[1];
		t->saddr[2] = sk->src_ip6[2];
		t->saddr[3] = sk->src_ip6[3];
		t->daddr[0] = sk->dst_ip6[0];
		t->daddr[1] = sk->dst_ip6[1];
		t->daddr[2] = sk->dst_ip6[2];
		t->daddr[3] = sk->dst_ip6[3];
	}
}

/* fill_addresses reads the addresses of a packet; it reports false if it is too short. */
static __always_inline bool fill_addresses(struct tuple *t, struct __sk_buff *c, bool v4)
{
	if (v4) {
		t->family = AF_INET;
		return !bpf_skb_load_bytes(c, 12, &t->saddr, 4) && !bpf_skb_load_bytes(c, 16, &t->daddr, 4);
	}
	t->family = AF_INET6;
	return !bpf_skb_load_bytes(c, 8, &t->saddr, 16) && !bpf_skb_load_bytes(c, 24, &t->daddr, 16);
}

/* In other network namespaces no netfilter program of ours is: their packets pass here before they are forwarded. */
SEC("cgroup_skb/egress") int foreign_out(struct __sk_buff *c)
{
	struct bpf_sock *sk = c->sk;
	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	__u32 proto = sk->protocol;
	if (proto != IPPROTO_UDP && proto != IPPROTO_ICMP && proto != IPPROTO_ICMPV6)
		return 1;
	__u64 cookie = bpf_get_socket_cookie(c);
	struct owner *sock = bpf_map_lookup_elem(&socks, &cookie);
	if (!sock || !sock->foreign)
		return 1;
	struct tuple t = { .proto = proto, .foreign = 1 };
	bool v4 = c->protocol == bpf_htons(ETH_P_IP);
	if (proto == IPPROTO_UDP) {
		if (!sk->dst_port)
			return 1;
		fill_tuple(&t, sk, v4);
	} else {
		/* a ping socket: its port is the identifier of the echoes it sends */
		if (!fill_addresses(&t, c, v4))
			return 1;
		t.sport = sk->src_port;
	}
	sent_by(sock, &t);
	return 1;
}

static __always_inline struct mount *mount_of(struct vfsmount *v) { return (void *)v - bpf_core_field_offset(struct mount, mnt); }

/* walk writes the names of a path from the last to the first, each with a zero behind it, and returns how many bytes that are. */
static __always_inline __u32 walk(struct path *at, __u8 *buf, __u32 *flags)
{
	struct dentry *d = BPF_CORE_READ(at, dentry);
	struct vfsmount *v = BPF_CORE_READ(at, mnt);
	__u32 off = 0;
	struct dentry *leaf = d;
	for (int i = 0; i < MAX_NAMES; i++) {
		struct dentry *up = BPF_CORE_READ(d, d_parent);
		if (d == BPF_CORE_READ(v, mnt_root)) {
			struct mount *m = mount_of(v);
			struct mount *parent = BPF_CORE_READ(m, mnt_parent);
			if (m == parent)
				return off;
			d = BPF_CORE_READ(m, mnt_mountpoint);
			v = (void *)parent + bpf_core_field_offset(struct mount, mnt);
			continue;
		}
		if (off >= PATH_ROOM)
			return PATH_UNKNOWN;
		long n = bpf_probe_read_kernel_str(buf + (off & (PATH_ROOM - 1)), NAME_ROOM, BPF_CORE_READ(d, d_name.name));
		if (n <= 0)
			return PATH_UNKNOWN;
		off += n;
		if (d == leaf && d != up && !BPF_CORE_READ(d, d_hash.pprev))
			*flags |= IMAGE_DELETED;
		if (d == up) { /* never had a place: memfd_create */
			*flags |= IMAGE_PSEUDO;
			return off;
		}
		d = up;
	}
	return PATH_UNKNOWN;
}

/* new_image returns the entry of an image, whose path and directory it fills. */
static __always_inline struct image *new_image(__u64 exec, struct task_struct *t)
{
	__u32 zero = 0, flags = 0, unused = 0;
	struct image *i = bpf_map_lookup_elem(&blank, &zero);
	if (!i)
		return 0;
	bpf_map_update_elem(&images, &exec, i, BPF_NOEXIST);
	i = bpf_map_lookup_elem(&images, &exec);
	if (!i)
		return 0;
	struct file *exe = BPF_CORE_READ(t, mm, exe_file);
	i->path_len = exe ? walk(&exe->f_path, i->path, &flags) : PATH_UNKNOWN;
	if (exe) {
		i->ino = BPF_CORE_READ(exe, f_inode, i_ino);
		i->dev = BPF_CORE_READ(exe, f_inode, i_sb, s_dev);
		/* one that was unmounted meanwhile is in none */
		struct mount *m = mount_of(BPF_CORE_READ(exe, f_path.mnt));
		if (host_mntns && BPF_CORE_READ(m, mnt_ns, ns.inum) == host_mntns)
			flags |= IMAGE_HERE;
	}
	i->flags = flags;
	struct fs_struct *fs = BPF_CORE_READ(t, fs);
	i->cwd_len = fs ? walk(&fs->pwd, i->cwd, &unused) : PATH_UNKNOWN;
	return i;
}

static __always_inline void fill_state(struct proc_state *p, struct task_struct *t, __u64 exec)
{
	struct task_struct *leader = BPF_CORE_READ(t, group_leader);
	struct task_struct *parent = BPF_CORE_READ(leader, real_parent);
	p->exec = exec;
	p->parent_tgid = BPF_CORE_READ(parent, tgid);
	p->parent_start = BPF_CORE_READ(parent, group_leader, start_boottime);
	p->pid = ns_pid(leader, BPF_CORE_READ(t, tgid));
	p->uid = BPF_CORE_READ(t, cred, euid.val);
}

/* Two images never have one number: no processor executes two programs in the same nanosecond. */
static __always_inline __u64 new_exec(void) { return bpf_ktime_get_ns() << 8 | (bpf_get_smp_processor_id() & 0xff); }

SEC("tp_btf/sched_process_exec") int BPF_PROG(on_exec, struct task_struct *p, int old_pid, struct linux_binprm *b)
{
	__u64 exec = new_exec();
	struct proc_key k = { .start = BPF_CORE_READ(p, group_leader, start_boottime), .tgid = p->tgid };
	struct image *i = new_image(exec, p);
	if (i) {
		unsigned long begin = BPF_CORE_READ(p, mm, arg_start), n = BPF_CORE_READ(p, mm, arg_end) - begin;
		if (n > ARGS_ROOM - 1)
			n = ARGS_ROOM - 1;
		if (!bpf_probe_read_user(i->args, n, (void *)begin))
			i->args_len = n;
	}
	struct proc_state *old = bpf_map_lookup_elem(&procs, &k);
	struct proc_state s = { .known = old ? old->known : 0 };
	fill_state(&s, p, exec);
	bpf_map_update_elem(&procs, &k, &s, BPF_ANY);
	if (s.known)
		tell(EVENT_EXEC, s.pid, k.start, 0);
	return 0;
}

SEC("tp_btf/sched_process_fork") int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	if (child->pid != child->tgid)
		return 0;
	struct proc_key from = { .start = BPF_CORE_READ(parent, group_leader, start_boottime), .tgid = parent->tgid };
	struct proc_state *p = bpf_map_lookup_elem(&procs, &from);
	if (!p)
		return 0;
	__u64 exec = p->exec;
	struct proc_key k = { .start = child->start_boottime, .tgid = child->tgid };
	struct proc_state s = {};
	fill_state(&s, child, exec);
	bpf_map_update_elem(&procs, &k, &s, BPF_ANY);
	bpf_map_lookup_elem(&images, &exec); /* in use: the map forgets what was not */
	return 0;
}

SEC("tp_btf/sched_process_exit") int BPF_PROG(on_exit, struct task_struct *p)
{
	if (BPF_CORE_READ(p, signal, live.counter) > 0)
		return 0;
	struct proc_key k = { .start = BPF_CORE_READ(p, group_leader, start_boottime), .tgid = p->tgid };
	struct proc_state *s = bpf_map_lookup_elem(&procs, &k);
	if (!s || s->exited)
		return 0;
	s->exited = bpf_ktime_get_ns();
	if (s->known)
		tell(EVENT_EXIT, s->pid, k.start, 0);
	return 0;
}

/* One read gives every process that is older than we are an entry. It lists them, so that user space adds their arguments, which
 * cannot be read from here. */
SEC("iter/task") int seed_tasks(struct bpf_iter__task *c)
{
	struct task_struct *t = c->task;
	if (!t || t->pid != t->tgid || (t->flags & PF_KTHREAD))
		return 0;
	struct proc_key k = { .start = t->start_boottime, .tgid = t->tgid };
	if (bpf_map_lookup_elem(&procs, &k))
		return 0;
	__u64 exec = new_exec();
	if (!new_image(exec, t))
		return 0;
	struct proc_state s = {};
	fill_state(&s, t, exec);
	if (bpf_map_update_elem(&procs, &k, &s, BPF_NOEXIST))
		return 0;
	struct task_row r = { .exec = exec, .start = k.start, .pid = s.pid };
	bpf_seq_write(c->meta->seq, &r, sizeof r);
	return 0;
}

/* One read gives every socket that is older than we are an owner; one that several processes hold has none. */
SEC("iter/task_file") int seed_sockets(struct bpf_iter__task_file *c)
{
	struct file *f = c->file;
	struct task_struct *t = c->task;
	if (!f || !t || t->pid != t->tgid)
		return 0;
	struct socket *s = bpf_sock_from_file(f);
	if (!s)
		return 0;
	struct sock *sk = s->sk;
	if (!sk)
		return 0;
	__u16 family = sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	struct owner o = {
		.cookie = bpf_get_socket_cookie(sk), .ts = bpf_ktime_get_ns(), .start = t->start_boottime, .tgid = t->tgid,
		.flags = FLAG_SEEDED,
	};
	o.foreign = is_foreign(BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie));
	o.pid = ns_pid(t, o.tgid);
	o.uid = BPF_CORE_READ(t, cred, euid.val);
	o.cgroup = BPF_CORE_READ(t, cgroups, dfl_cgrp, kn, id);
	struct proc_key k = { .start = o.start, .tgid = o.tgid };
	struct proc_state *p = bpf_map_lookup_elem(&procs, &k);
	if (p) {
		o.exec = p->exec;
		p->known = 1;
	}
	struct tuple w = { .proto = IPPROTO_TCP, .foreign = o.foreign };
	w.sport = sk->__sk_common.skc_num;
	w.dport = bpf_ntohs(sk->__sk_common.skc_dport);
	w.family = family;
	if (family == AF_INET || (!sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[0] && !sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[1] &&
				  sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[2] == bpf_htonl(0xffff))) {
		w.family = AF_INET;
		w.saddr[0] = sk->__sk_common.skc_rcv_saddr;
		w.daddr[0] = sk->__sk_common.skc_daddr;
	} else {
		for (int i = 0; i < 4; i++) {
			w.saddr[i] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			w.daddr[i] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i];
		}
	}
	bool stream = sk->sk_protocol == IPPROTO_TCP && w.dport;
	struct owner *old = bpf_map_lookup_elem(&socks, &o.cookie);
	if (!old) {
		bpf_map_update_elem(&socks, &o.cookie, &o, BPF_NOEXIST);
		if (stream)
			bpf_map_update_elem(&tuples, &w, &o, BPF_NOEXIST);
	} else if ((old->flags & FLAG_SEEDED) && old->tgid != o.tgid) {
		old->flags |= FLAG_SHARED;
		old = stream ? bpf_map_lookup_elem(&tuples, &w) : 0;
		if (old && (old->flags & FLAG_SEEDED))
			old->flags |= FLAG_SHARED;
	}
	return 0;
}

/* what an EVENT_END has in the place of a process */
#define END_ABORTED 1

SEC("tp_btf/inet_sock_set_state") int BPF_PROG(on_state, struct sock *sk, int from, int to)
{
	if (to != TCP_CLOSE || from == TCP_LISTEN || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (is_foreign(sk->__sk_common.skc_net.net->net_cookie))
		return 0;
	struct tuple t = { .proto = IPPROTO_TCP };
	/* the number of the local port has been given back by now, not so its copy for headers */
	t.sport = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	t.dport = bpf_ntohs(sk->__sk_common.skc_dport);
	if (!t.dport)
		return 0;
	t.family = sk->__sk_common.skc_family;
	if (t.family == AF_INET || (!sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[0] && !sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[1] &&
				    sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[2] == bpf_htonl(0xffff))) {
		t.family = AF_INET;
		t.saddr[0] = sk->__sk_common.skc_rcv_saddr;
		t.daddr[0] = sk->__sk_common.skc_daddr;
	} else {
		for (int i = 0; i < 4; i++) {
			t.saddr[i] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			t.daddr[i] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i];
		}
	}
	if (from == TCP_SYN_SENT) {
		/* a second socket that wants the same addresses fails like this, and the first one goes on */
		struct owner *o = bpf_map_lookup_elem(&tuples, &t);
		if (!o || o->cookie != sk->__sk_common.skc_cookie.counter)
			return 0;
	}
	/* connection tracking sees a close, and not that a socket has given up */
	bool closed = from == TCP_FIN_WAIT2 || from == TCP_CLOSING || from == TCP_LAST_ACK || from == TCP_TIME_WAIT;
	tell(EVENT_END, closed ? 0 : END_ABORTED, 0, &t);
	return 0;
}

/* count adds a packet to its connection as the program sees it: before other addresses are written into what it sends, and after
 * they were taken out of what it gets. */
static __always_inline int count(struct __sk_buff *c, bool sent)
{
	struct bpf_sock *sk = c->sk;
	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk || (sk->protocol != IPPROTO_TCP && sk->protocol != IPPROTO_UDP))
		return 1;
	if (packets_know_netns && is_foreign(bpf_get_netns_cookie(c)))
		return 1;
	struct tuple t = { .proto = sk->protocol };
	bool v4 = c->protocol == bpf_htons(ETH_P_IP);
	if (sk->dst_port) {
		fill_tuple(&t, sk, v4);
	} else {
		/* a socket that serves many */
		__u16 peer;
		if (sk->protocol == IPPROTO_TCP || !fill_addresses(&t, c, v4) ||
		    bpf_skb_load_bytes(c, (v4 ? 20 : 40) + (sent ? 2 : 0), &peer, 2))
			return 1;
		if (!sent) {
			for (int i = 0; i < 4; i++) {
				__u32 a = t.saddr[i];
				t.saddr[i] = t.daddr[i];
				t.daddr[i] = a;
			}
		}
		t.sport = sk->src_port;
		t.dport = bpf_ntohs(peer);
	}
	struct bytes *b = bpf_map_lookup_elem(&usage, &t);
	if (!b) {
		struct bytes first = { .sent = sent ? c->len : 0, .received = sent ? 0 : c->len };
		if (!bpf_map_update_elem(&usage, &t, &first, BPF_NOEXIST))
			return 1;
		b = bpf_map_lookup_elem(&usage, &t); /* the other processor was first */
		if (!b) {
			lose(LOST_BYTES, c->len);
			return 1;
		}
	}
	__sync_fetch_and_add(sent ? &b->sent : &b->received, c->len);
	return 1;
}
SEC("cgroup_skb/egress") int count_out(struct __sk_buff *c) { return count(c, true); }
SEC("cgroup_skb/ingress") int count_in(struct __sk_buff *c) { return count(c, false); }

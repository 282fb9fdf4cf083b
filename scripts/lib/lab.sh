# shellcheck shell=bash
# What measurements of refd have in common: two hosts in network namespaces of their own, refd on the first one. To be sourced by a script
# whose directory is that of the repository.
#
#   lab NAME          as root: $work, a directory; $a and $b, namespaces with 10.88.0.1 and 10.88.0.2; $work/refd, the program. All of it
#                     goes when the script ends, with the processes in the array loads, then refd, then those in sinks.
#   refd_config       $work/refd.yaml, with what is said on standard input besides what all have
#   refd_run METHOD   runs refd in $a as $refd, and waits until it attributes connections, for "ebpf" by that
#   ask ARGUMENTS     runs another refd that asks this one
loads=() sinks=() refd=

lab_end() {
	for p in "${loads[@]}" ${refd:-} "${sinks[@]}"; do
		kill "$p" 2>/dev/null && wait "$p" 2>/dev/null || true
	done
	ip netns delete "$a" 2>/dev/null || true
	ip netns delete "$b" 2>/dev/null || true
	rm -rf "$work"
}

lab() {
	if ((EUID != 0)); then
		echo "${0##*/}: needs root for network namespaces: sudo $0" >&2
		exit 1
	fi
	work=$(mktemp -d) a=weir$1$$A b=weir$1$$B
	trap lab_end EXIT
	if [[ -n ${REFD:-} ]]; then cp "$REFD" "$work/refd"; else CGO_ENABLED=0 "${GO:-go}" build -o "$work/refd" ./cmd/refd; fi
	ip netns add "$a"
	ip netns add "$b"
	ip -n "$a" link add eth0 type veth peer name eth0 netns "$b"
	ip -n "$a" address add 10.88.0.1/24 dev eth0
	ip -n "$b" address add 10.88.0.2/24 dev eth0
	for ns in "$a" "$b"; do
		ip -n "$ns" link set lo up
		ip -n "$ns" link set eth0 up
	done
}

refd_config() {
	cat >"$work/refd.yaml" <<-YAML
		mode: enforce
		on_exit: open
		api: {socket: $work/refd.sock}
		netfilter: {state_dir: $work/state}
		default: {out: allow}
		ivpn: {enabled: false}
	YAML
	cat >>"$work/refd.yaml"
}

ask() { "$work/refd" --config "$work/refd.yaml" "$@"; }

refd_run() {
	ip netns exec "$a" "$work/refd" --config "$work/refd.yaml" run 2>"$work/log" &
	refd=$!
	for ((i = 0; i < 200; i++)); do
		[[ $(ask status 2>/dev/null) == *attribution*"${1:+by $1}"* ]] && break
		sleep 0.1
	done
	ask status | grep attribution
}

package firewall

import "github.com/weirfw/weir/pkg/verdict"

// Codes of reasons that the firewall itself gives. They are stable.
const (
	CodeDriver          verdict.Code = "fast-track-driver"
	CodeSelf            verdict.Code = "fast-track-self"
	CodeDHCP            verdict.Code = "fast-track-dhcp"
	CodeOwnService      verdict.Code = "own-service"
	CodePreAuth         verdict.Code = "own-preauthenticated"
	CodeOwnEgress       verdict.Code = "own-egress"
	CodeOwnProcess      verdict.Code = "own-process"
	CodeNameserver      verdict.Code = "nameserver"
	CodeSinkhole        verdict.Code = "sinkhole"
	CodeMulticastAnswer verdict.Code = "multicast-answer"
	CodeHandler         verdict.Code = "external-handler"
	CodeHandlerPanic    verdict.Code = "external-handler-panic"
	CodeDefault         verdict.Code = "default"
	CodeTunnel          verdict.Code = "tunnel"
	CodeTunnelFailed    verdict.Code = "tunnel-failed"
	CodeSplitTun        verdict.Code = "split-tunnel"
	CodeSplitTunFailed  verdict.Code = "split-tunnel-failed"
	CodeOlder           verdict.Code = "older-than-firewall"
	CodeWaitFailed      verdict.Code = "decision-failed"
	CodeBadDecision     verdict.Code = "bad-decision"
)

func decide(v verdict.Verdict, code verdict.Code, text string) verdict.Decision {
	return verdict.Decision{Verdict: v, Reason: verdict.Reason{Code: code, Text: text}}
}

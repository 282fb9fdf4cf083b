package api

import (
	"context"
	"net/http"

	"github.com/weirfw/weir/internal/refd/prompt"
)

// Prompts is the part of a Backend that asks people.
type Prompts interface {
	// Prompts are the open questions, the oldest first. Who asks for them and has the role write
	// counts as somebody who may answer, for half a minute.
	Prompts(ctx context.Context) ([]prompt.Prompt, error)
	// Answer answers one.
	Answer(ctx context.Context, r AnswerRequest) error
	// Forget takes the answers of this session back, and says how many there were.
	Forget(ctx context.Context) (Forgotten, error)
}

// AnswerRequest answers a prompt. With Dismiss the answer does not matter: whoever waits is denied as if nobody had answered.
type AnswerRequest struct {
	ID      uint64        `json:"id"`
	Dismiss bool          `json:"dismiss,omitempty"`
	Answer  prompt.Answer `json:"answer,omitzero"`
}

// Forgotten says how many answers hold no more.
type Forgotten struct {
	Answers int `json:"answers"`
}

func promptRoutes(b Prompts) []*route {
	return []*route{
		on(http.MethodGet, "/api/v1/prompts", ReadOnly, "Questions that wait for an answer, the oldest first.",
			func(ctx context.Context, _ none) ([]prompt.Prompt, error) { return b.Prompts(ctx) }),
		on(http.MethodPost, "/api/v1/prompts/answer", ReadWrite, "Answer a question, or put it aside.",
			func(ctx context.Context, r AnswerRequest) (none, error) { return none{}, b.Answer(ctx, r) }),
		on(http.MethodPost, "/api/v1/prompts/forget", ReadWrite, "Take back the answers that hold for this session.",
			func(ctx context.Context, _ none) (Forgotten, error) { return b.Forget(ctx) }),
	}
}

// Prompts asks for the open questions.
func (c *Client) Prompts(ctx context.Context) (list []prompt.Prompt, err error) {
	return list, c.call(ctx, http.MethodGet, "prompts", nil, &list)
}

// Answer answers a prompt.
func (c *Client) Answer(ctx context.Context, r AnswerRequest) error {
	return c.call(ctx, http.MethodPost, "prompts/answer", r, &none{})
}

// Forget takes the answers of this session back.
func (c *Client) Forget(ctx context.Context) (f Forgotten, err error) {
	return f, c.call(ctx, http.MethodPost, "prompts/forget", nil, &f)
}

// Notifications asks for what is shown to people.
func (c *Client) Notifications(ctx context.Context) (list []Notification, err error) {
	return list, c.call(ctx, http.MethodGet, "notifications", nil, &list)
}

// Dismiss hides a notification.
func (c *Client) Dismiss(ctx context.Context, r NoticeRequest) error {
	return c.call(ctx, http.MethodPost, "notifications/dismiss", r, &none{})
}

// Act does one of the actions of a notification.
func (c *Client) Act(ctx context.Context, r NoticeRequest) error {
	return c.call(ctx, http.MethodPost, "notifications/act", r, &none{})
}

// Sleep switches the sleep mode.
func (c *Client) Sleep(ctx context.Context, r SleepRequest) error {
	return c.call(ctx, http.MethodPost, "sleep", r, &none{})
}

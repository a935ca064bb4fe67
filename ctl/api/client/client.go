package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/api"
)

// ErrUnreachable says that no daemon answers there. The error that wraps it wraps the system's reason too:
// fs.ErrNotExist, fs.ErrPermission, ECONNREFUSED.
var ErrUnreachable = errors.New("the daemon can't be reached")

// answerTimeout is how long the daemon may think before it begins to answer. An apply with large sets takes seconds.
const answerTimeout = 2 * time.Minute

// Client asks one daemon. It is safe for concurrent use.
type Client struct {
	http  *http.Client
	base  string // of URLs
	token string // by TCP; empty: none
}

// New returns a client of the daemon on that socket. It connects when it is asked something.
func New(socket string) *Client {
	return newClient("http://gardu", func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
}

// TCP says how a daemon is reached by TCP.
type TCP struct {
	URL   string         // https://gardu.example:9180; http is for this machine alone
	Token string         // without one, a daemon changes nothing
	Roots *x509.CertPool // that its certificate may hang on; nil: those that this machine trusts
}

// NewTCP returns a client of a daemon that is reached by TCP. It connects when it is asked something.
func NewTCP(to TCP) (*Client, error) {
	at, err := url.Parse(to.URL)
	switch {
	case err != nil:
		return nil, err
	case at.Host == "" || at.Scheme != "https" && at.Scheme != "http" || strings.Trim(at.Path, "/") != "" || at.RawQuery != "" || at.User != nil:
		return nil, fmt.Errorf("%q is not the URL of a daemon, such as https://gardu.example:9180", to.URL)
	case at.Scheme == "http" && !isLoopback(at.Hostname()):
		return nil, fmt.Errorf("%s: others could read the token, and what is answered: https is for other machines", to.URL)
	}
	c := newClient(at.Scheme+"://"+at.Host, new(net.Dialer).DialContext)
	c.token = to.Token
	c.http.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: to.Roots}
	return c, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func newClient(base string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	transport := &http.Transport{
		ResponseHeaderTimeout: answerTimeout,
		DisableCompression:    true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
			}
			return conn, nil
		},
	}
	// What answers with another place to ask isn't gardu, and doesn't get the token sent there.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{http: &http.Client{Transport: transport, CheckRedirect: stay}, base: base}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the state of the whole.
func (c *Client) Status(ctx context.Context) (status api.Status, err error) {
	return status, c.call(ctx, http.MethodGet, "/v1/status", nil, &status)
}

// Rules returns the rules in the order in which they are tried.
func (c *Client) Rules(ctx context.Context) (rules []api.Rule, err error) {
	return rules, c.call(ctx, http.MethodGet, "/v1/rules", nil, &rules)
}

// Sets returns the sets.
func (c *Client) Sets(ctx context.Context) (sets []api.Set, err error) {
	return sets, c.call(ctx, http.MethodGet, "/v1/sets", nil, &sets)
}

// Services returns the services.
func (c *Client) Services(ctx context.Context) (services []api.Service, err error) {
	return services, c.call(ctx, http.MethodGet, "/v1/services", nil, &services)
}

// Backends returns the backends of all services.
func (c *Client) Backends(ctx context.Context) (backends []api.Backend, err error) {
	return backends, c.call(ctx, http.MethodGet, "/v1/backends", nil, &backends)
}

// Blocks returns the blocks.
func (c *Client) Blocks(ctx context.Context) (blocks []api.Block, err error) {
	return blocks, c.call(ctx, http.MethodGet, "/v1/blocks", nil, &blocks)
}

// EachBlock calls yield for each block as it arrives, in the order of prefixes, and stops at yield's first error, which it returns.
func (c *Client) EachBlock(ctx context.Context, yield func(api.Block) error) error {
	return each(ctx, c, "/v1/blocks", "blocks", yield)
}

// each reads a list, however long it is, row by row.
func each[T any](ctx context.Context, c *Client, path, what string, yield func(T) error) error {
	response, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	if _, err := decoder.Token(); err != nil { // the bracket
		return fmt.Errorf("read %s: %w", what, err)
	}
	for decoder.More() {
		var value T
		if err := decoder.Decode(&value); err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
		if err := yield(value); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil { // cut off
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}

// Block adds or renews blocks, all or none.
func (c *Client) Block(ctx context.Context, requests []api.BlockRequest) (blocks []api.Block, err error) {
	return blocks, c.call(ctx, http.MethodPost, "/v1/blocks", requests, &blocks)
}

// unblockAtOnce is how many prefixes are put into one URL.
const unblockAtOnce = 1000

// Unblock removes blocks of exactly these prefixes. Of many, some may be removed when there is an error.
func (c *Client) Unblock(ctx context.Context, prefixes []netip.Prefix) (unblocked api.Unblocked, err error) {
	for {
		next := prefixes[:min(len(prefixes), unblockAtOnce)]
		prefixes = prefixes[len(next):]
		query := url.Values{}
		for _, prefix := range next {
			query.Add("prefix", prefix.String())
		}
		var part api.Unblocked
		if err := c.call(ctx, http.MethodDelete, "/v1/blocks?"+query.Encode(), nil, &part); err != nil {
			return unblocked, err
		}
		unblocked.Removed = append(unblocked.Removed, part.Removed...)
		unblocked.Missing = append(unblocked.Missing, part.Missing...)
		if len(prefixes) == 0 {
			return unblocked, nil
		}
	}
}

// Drain sends new flows of a backend elsewhere.
func (c *Client) Drain(ctx context.Context, request api.DrainRequest) (ordered api.Ordered, err error) {
	return ordered, c.call(ctx, http.MethodPost, "/v1/drains", request, &ordered)
}

// Undrain takes a drain back.
func (c *Client) Undrain(ctx context.Context, service, backend string) (ordered api.Ordered, err error) {
	query := url.Values{"service": {service}, "backend": {backend}}
	return ordered, c.call(ctx, http.MethodDelete, "/v1/drains?"+query.Encode(), nil, &ordered)
}

// Weigh gives a backend another weight.
func (c *Client) Weigh(ctx context.Context, request api.WeightRequest) (ordered api.Ordered, err error) {
	return ordered, c.call(ctx, http.MethodPut, "/v1/weights", request, &ordered)
}

// Apply replaces the snapshot, or with Check only validates it.
func (c *Client) Apply(ctx context.Context, request api.ApplyRequest) (result api.ApplyResult, err error) {
	return result, c.change(ctx, http.MethodPut, "/v1/snapshot", request.IfMatch, request, &result)
}

// Plan says what Apply of a configuration would change.
func (c *Client) Plan(ctx context.Context, request api.PlanRequest) (plan api.Plan, err error) {
	return plan, c.call(ctx, http.MethodPost, "/v1/plan", request, &plan)
}

// Confirm keeps the snapshot that waits for it.
func (c *Client) Confirm(ctx context.Context, request api.ConfirmRequest) (result api.ConfirmResult, err error) {
	return result, c.call(ctx, http.MethodPost, "/v1/confirm", request, &result)
}

// Rollback puts an older snapshot in force again.
func (c *Client) Rollback(ctx context.Context, request api.RollbackRequest) (result api.ApplyResult, err error) {
	return result, c.change(ctx, http.MethodPost, "/v1/rollback", request.IfMatch, request, &result)
}

// Snapshot returns the configuration in force. With its Tag as IfMatch, Apply changes it only if nobody else has meanwhile.
func (c *Client) Snapshot(ctx context.Context) (revision api.Revision, err error) {
	return revision, c.call(ctx, http.MethodGet, "/v1/snapshot", nil, &revision)
}

// Revisions lists the snapshots that are kept, the newest first.
func (c *Client) Revisions(ctx context.Context) (revisions []api.Revision, err error) {
	return revisions, c.call(ctx, http.MethodGet, "/v1/revisions", nil, &revisions)
}

// Revision returns one of them with its text.
func (c *Client) Revision(ctx context.Context, number uint64) (revision api.Revision, err error) {
	return revision, c.call(ctx, http.MethodGet, "/v1/revision?number="+strconv.FormatUint(number, 10), nil, &revision)
}

// CreateToken makes a token for TCP. Its secret is told this once.
func (c *Client) CreateToken(ctx context.Context, request api.TokenRequest) (token api.NewToken, err error) {
	return token, c.call(ctx, http.MethodPost, "/v1/tokens", request, &token)
}

// Tokens lists the tokens for TCP, without their secrets.
func (c *Client) Tokens(ctx context.Context) (tokens []api.Token, err error) {
	return tokens, c.call(ctx, http.MethodGet, "/v1/tokens", nil, &tokens)
}

// RevokeToken makes a token worthless, at once.
func (c *Client) RevokeToken(ctx context.Context, name string) error {
	var revoked api.Revoked
	return c.call(ctx, http.MethodDelete, "/v1/tokens?"+url.Values{"name": {name}}.Encode(), nil, &revoked)
}

// LogLevel returns how much the daemon writes to its log.
func (c *Client) LogLevel(ctx context.Context) (level api.LogLevel, err error) {
	return level, c.call(ctx, http.MethodGet, "/v1/loglevel", nil, &level)
}

// SetLogLevel changes how much the daemon writes to its log.
func (c *Client) SetLogLevel(ctx context.Context, request api.LogLevelRequest) (level api.LogLevel, err error) {
	return level, c.call(ctx, http.MethodPut, "/v1/loglevel", request, &level)
}

// Explain judges one frame without side effects.
func (c *Client) Explain(ctx context.Context, request api.ExplainRequest) (explanation api.Explanation, err error) {
	return explanation, c.call(ctx, http.MethodPost, "/v1/explain", request, &explanation)
}

// Flows calls yield for each flow of the query as it arrives, and stops at yield's first error, which it returns.
func (c *Client) Flows(ctx context.Context, query api.FlowQuery, yield func(api.Flow) error) error {
	query.Group = ""
	return stream(ctx, c, http.MethodGet, flowsPath(query), nil, "flows", yield)
}

// FlowGroups is Flows for a query with Group.
func (c *Client) FlowGroups(ctx context.Context, query api.FlowQuery, yield func(api.FlowGroup) error) error {
	return stream(ctx, c, http.MethodGet, flowsPath(query), nil, "flows", yield)
}

// Top calls yield for each sample of the query as it arrives, until ctx ends, the daemon does, or yield returns an error, which
// it returns.
func (c *Client) Top(ctx context.Context, query api.TopQuery, yield func(api.TopSample) error) error {
	values := url.Values{}
	for name, value := range map[string]string{"filter": query.Filter, "sort": query.Sort, "group": query.Group} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if query.Limit != 0 {
		values.Set("limit", strconv.Itoa(query.Limit))
	}
	if query.Every != 0 {
		values.Set("every", query.Every.String())
	}
	return stream(ctx, c, http.MethodGet, "/v1/top?"+values.Encode(), nil, "what flows do", yield)
}

func flowsPath(query api.FlowQuery) string {
	values := url.Values{}
	for name, value := range map[string]string{"filter": query.Filter, "sort": query.Sort, "group": query.Group} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if query.Limit != 0 {
		values.Set("limit", strconv.Itoa(query.Limit))
	}
	return "/v1/flows?" + values.Encode()
}

// History returns what flows did in a time.
func (c *Client) History(ctx context.Context, query api.HistoryQuery) (history api.History, err error) {
	values := url.Values{"since": {query.Since.Format(time.RFC3339Nano)}}
	if !query.Until.IsZero() {
		values.Set("until", query.Until.Format(time.RFC3339Nano))
	}
	for name, value := range map[string]string{"filter": query.Filter, "sort": query.Sort, "group": query.Group} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if query.Limit != 0 {
		values.Set("limit", strconv.Itoa(query.Limit))
	}
	return history, c.call(ctx, http.MethodGet, "/v1/history?"+values.Encode(), nil, &history)
}

// stream calls yield for each value of an answer that is a value a line.
func stream[T any](ctx context.Context, c *Client, method, path string, body any, what string, yield func(T) error) error {
	response, err := c.do(ctx, method, path, "", body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	for decoder := json.NewDecoder(response.Body); ; {
		var value T
		if err := decoder.Decode(&value); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
		if err := yield(value); err != nil {
			return err
		}
	}
	if text := response.Trailer.Get(api.ProblemTrailer); text != "" {
		return problem(strings.NewReader(text), response.Status)
	}
	return nil
}

// Events calls yield for each event of the query as it arrives, and stops at yield's first error, which it returns.
func (c *Client) Events(ctx context.Context, query api.EventQuery, yield func(api.Event) error) error {
	values := url.Values{}
	if query.Filter != "" {
		values.Set("filter", query.Filter)
	}
	if query.Follow {
		values.Set("follow", "true")
	}
	if query.Last != 0 {
		values.Set("last", strconv.Itoa(max(0, query.Last)))
	}
	if query.After != "" {
		values.Set("after", query.After)
	}
	return stream(ctx, c, http.MethodGet, "/v1/events?"+values.Encode(), nil, "events", yield)
}

// Capture calls yield for each item of a capture as it arrives, and stops at yield's first error, which it returns.
func (c *Client) Capture(ctx context.Context, query api.CaptureQuery, yield func(api.CaptureItem) error) error {
	return stream(ctx, c, http.MethodPost, "/v1/capture", query, "captured packets", yield)
}

// EndCapture ends the capture that began under that name: what is on its way still arrives, and the totals.
func (c *Client) EndCapture(ctx context.Context, name string) error {
	var nothing struct{}
	return c.call(ctx, http.MethodDelete, "/v1/capture?"+url.Values{"name": {name}}.Encode(), nil, &nothing)
}

// call sends a request, with body as JSON unless it is nil, and reads the answer.
func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	return c.change(ctx, method, path, "", body, answer)
}

// change is call on condition that ifMatch is empty or names what is in force.
func (c *Client) change(ctx context.Context, method, path, ifMatch string, body, answer any) error {
	response, err := c.do(ctx, method, path, ifMatch, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// do returns the response of a request that succeeded; the caller closes its body.
func (c *Client) do(ctx context.Context, method, path, ifMatch string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	if ifMatch != "" {
		request.Header.Set("If-Match", ifMatch)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // its own text is a URL that nobody typed
		}
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		return nil, problem(response.Body, response.Status)
	}
	return response, nil
}

// problem reads an *api.Problem. What answers without one isn't gardu.
func problem(body io.Reader, status string) error {
	var p api.Problem
	if err := json.NewDecoder(io.LimitReader(body, api.MaxRequest)).Decode(&p); err != nil || p.Code == "" {
		return fmt.Errorf("the answer is not that of a gardu daemon: HTTP %s", status)
	}
	return &p
}

package expr

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of an expression: far above what a person writes, low enough that hostile ones are cheap.
const (
	maxLength = 4096
	maxDepth  = 64
)

// Expr is a parsed expression.
type Expr struct {
	text  string
	match predicate
	root  *Node
	keys  []string
}

// predicate is pure: it leaves the flow as it was and depends on nothing else.
type predicate func(*Flow) bool

// Match says whether the expression holds for the flow.
func (e *Expr) Match(flow *Flow) bool { return e.match(flow) }

// Possible says whether the expression may hold for a flow of which the keys in flow.Unknown aren't known, and Certain
// whether it must.
func (e *Expr) Possible(flow *Flow) bool { return e.assuming(flow, true) }

// Certain says whether the expression holds whatever the keys in flow.Unknown are.
func (e *Expr) Certain(flow *Flow) bool { return e.assuming(flow, false) }

func (e *Expr) assuming(flow *Flow, holds bool) bool {
	f := *flow
	f.assume = holds
	return e.match(&f)
}

// Uses returns the names of the keys that the expression asks for, each once.
func (e *Expr) Uses() []string { return slices.Clone(e.keys) }

// Root returns the expression as a tree, for who evaluates it elsewhere; nil: it matches everything.
func (e *Expr) Root() *Node { return e.root }

// String returns the text that was parsed.
func (e *Expr) String() string { return e.text }

// Error is an expression that makes no sense, and where.
type Error struct {
	Text    string // the expression
	Offset  int    // in bytes, of the first wrong one; len(Text) at the end
	Message string
	Allowed string // what would be right there; may be empty
}

// Error prints the message, the expression, a caret under the place and what is allowed there.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  %s\n  %s^", e.Message, e.Text, indent(e.Text[:e.Offset]))
	if e.Allowed != "" {
		fmt.Fprintf(&b, "\nallowed here: %s", e.Allowed)
	}
	return b.String()
}

// indent is as wide as text on a terminal: tabs stay tabs.
func indent(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, text)
}

// Parse reads an expression about flows. An empty one matches every flow. The error is an *Error.
func Parse(text string) (*Expr, error) { return parse(text, keys) }

// ParseEvent reads an expression about events.
func ParseEvent(text string) (*Expr, error) { return parse(text, eventKeys) }

// ParsePacket reads an expression about packets.
func ParsePacket(text string) (*Expr, error) { return parse(text, packetKeys) }

// Nothing is an expression that holds for nothing.
func Nothing() *Expr {
	return &Expr{match: func(*Flow) bool { return false }, root: &Node{Kind: NodeOr}}
}

func parse(text string, keys []Key) (*Expr, error) {
	if len(text) > maxLength {
		return nil, &Error{Text: text[:40] + "...", Offset: 40, Message: fmt.Sprintf("the expression is longer than %d bytes", maxLength)}
	}
	if at := strings.IndexFunc(text, func(r rune) bool { return r != '\t' && r < ' ' }); at >= 0 {
		return nil, &Error{Text: strings.Map(printable, text), Offset: at, Message: "a control character"}
	}
	p := &parser{text: text, keys: keys}
	p.next()
	if p.token.kind == tokenEnd {
		return &Expr{text: text, match: func(*Flow) bool { return true }}, nil
	}
	whole, err := p.expression()
	if err != nil {
		return nil, err
	}
	if p.token.kind != tokenEnd {
		return nil, p.fail("this doesn't belong here", `"and", "or", or the end`)
	}
	slices.Sort(p.used)
	return &Expr{text: text, match: whole.match, root: whole.node, keys: slices.Compact(p.used)}, nil
}

func printable(r rune) rune {
	if r < ' ' {
		return ' '
	}
	return r
}

// parser is a recursive descent over the grammar in doc.go. token is the one that is looked at.
type parser struct {
	text  string
	keys  []Key
	at    int // end of token in text
	token token
	depth int
	used  []string // names of keys
}

func (p *parser) next() {
	p.token = scan(p.text, p.at)
	p.at = p.token.end
}

func (p *parser) fail(message, allowed string) *Error {
	return &Error{Text: p.text, Offset: p.token.start, Message: message, Allowed: allowed}
}

func (p *parser) expression() (condition, error) {
	left, err := p.and()
	if err != nil {
		return condition{}, err
	}
	for p.token.is("or") {
		p.next()
		right, err := p.and()
		if err != nil {
			return condition{}, err
		}
		a, b := left.match, right.match
		left = condition{func(f *Flow) bool { return a(f) || b(f) }, &Node{Kind: NodeOr, Of: []*Node{left.node, right.node}}}
	}
	return left, nil
}

func (p *parser) and() (condition, error) {
	left, err := p.unary()
	if err != nil {
		return condition{}, err
	}
	for p.token.is("and") {
		p.next()
		right, err := p.unary()
		if err != nil {
			return condition{}, err
		}
		a, b := left.match, right.match
		left = condition{func(f *Flow) bool { return a(f) && b(f) }, &Node{Kind: NodeAnd, Of: []*Node{left.node, right.node}}}
	}
	return left, nil
}

func (p *parser) unary() (condition, error) {
	if p.depth++; p.depth > maxDepth {
		return condition{}, p.fail(fmt.Sprintf("nested deeper than %d", maxDepth), "")
	}
	defer func() { p.depth-- }()
	switch {
	case p.token.is("not"):
		p.next()
		inner, err := p.unary()
		if err != nil {
			return condition{}, err
		}
		return condition{negation(inner.match), inner.node.not()}, nil
	case p.token.is("("):
		p.next()
		inner, err := p.expression()
		if err != nil {
			return condition{}, err
		}
		if !p.token.is(")") {
			return condition{}, p.fail("the parenthesis is not closed", `"and", "or", ")"`)
		}
		p.next()
		return inner, nil
	}
	return p.test()
}

// test reads a key, an operator and its values.
func (p *parser) test() (condition, error) {
	row, found := p.lookup(p.token.text)
	if p.token.kind != tokenWord || !found {
		message := "something is missing at the end"
		if p.token.kind != tokenEnd {
			message = fmt.Sprintf("%q is not a key", p.token.text)
		}
		return condition{}, p.fail(message, `"not", "(", `+p.keyNames())
	}
	p.used = append(p.used, row.Name)
	p.next()
	op := operator("in")
	if p.token.kind == tokenOperator || p.token.is("in") && !p.inIsValue(row) {
		op = operator(p.token.text)
		if op.orders() && !row.ordered {
			return condition{}, p.fail(fmt.Sprintf("%s has no order", row.Name), "in, =, !=")
		}
		p.next()
	}
	var values []condition
	for {
		if p.token.kind != tokenWord && p.token.kind != tokenQuoted {
			return condition{}, p.fail("a value is missing", row.Values)
		}
		value, ok := row.value(op, p.token.text)
		if !ok {
			return condition{}, p.fail(fmt.Sprintf("%q is not a value of %s", p.token.text, row.Name), row.Values)
		}
		values = append(values, value)
		p.next()
		if !p.token.is(",") {
			break
		}
		if op.orders() {
			return condition{}, p.fail(fmt.Sprintf("%s takes one value", op), `"and", "or", or the end`)
		}
		p.next()
	}
	whole := combine(values, op == "!=")
	return condition{func(f *Flow) bool {
		if f.Unknown != nil && slices.Contains(f.Unknown, row.Name) {
			return f.assume
		}
		return whole.match(f)
	}, whole.node}, nil
}

// negation holds when inner doesn't. What is assumed of the unknown turns around with it.
func negation(inner predicate) predicate {
	return func(f *Flow) bool {
		if f.Unknown == nil {
			return !inner(f)
		}
		f.assume = !f.assume
		held := inner(f)
		f.assume = !f.assume
		return !held
	}
}

// inIsValue tells the value in of `direction in` from the operator: no value follows it.
func (p *parser) inIsValue(row Key) bool {
	if row.Name != "direction" {
		return false
	}
	next := scan(p.text, p.at)
	return next.kind == tokenEnd || next.is("and") || next.is("or") || next.is(")") || next.is(",")
}

// combine holds when one of the conditions does, or with negate when none does.
func combine(values []condition, negate bool) condition {
	if len(values) == 1 && !negate {
		return values[0]
	}
	node := &Node{Kind: NodeOr}
	for _, value := range values {
		node.Of = append(node.Of, value.node)
	}
	if negate {
		node = node.not()
	}
	return condition{func(f *Flow) bool {
		for _, value := range values {
			if value.match(f) {
				return !negate
			}
		}
		return negate
	}, node}
}

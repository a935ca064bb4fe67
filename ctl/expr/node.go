package expr

import "net/netip"

// NodeKind says what a node of an expression is.
type NodeKind int

const (
	NodeAnd    NodeKind = iota // all of its parts hold
	NodeOr                     // one of them does
	NodeNot                    // the only one doesn't
	NodePrefix                 // the key's address is in Prefix
	NodeRange                  // the key's number is from Lo to Hi; when these are the wrong way round, none is
	NodeName                   // the key's name is Name
)

// Node is a part of an expression, as Match understands it.
type Node struct {
	Kind   NodeKind
	Of     []*Node // NodeAnd, NodeOr, NodeNot
	Key    string  // of the others: one of Keys that isn't made of two
	Prefix netip.Prefix
	Lo, Hi uint64
	Name   string
}

func (n *Node) not() *Node { return &Node{Kind: NodeNot, Of: []*Node{n}} }

// condition is a part of an expression, to be evaluated and to be read.
type condition struct {
	match predicate
	node  *Node
}

// MayHold says whether the expression can hold for what has that name under that key, whatever else it is.
func (e *Expr) MayHold(key, name string) bool {
	if e.root == nil {
		return true
	}
	holds, _ := e.root.could(key, name)
	return holds
}

// could says whether the node can hold, and whether it can fail to.
func (n *Node) could(key, name string) (hold, fail bool) {
	switch n.Kind {
	case NodeNot:
		hold, fail = n.Of[0].could(key, name)
		return fail, hold
	case NodeAnd:
		hold = true
		for _, part := range n.Of {
			holds, fails := part.could(key, name)
			hold, fail = hold && holds, fail || fails
		}
		return hold, fail
	case NodeOr:
		fail = true
		for _, part := range n.Of {
			holds, fails := part.could(key, name)
			hold, fail = hold || holds, fail && fails
		}
		return hold, fail
	case NodeName:
		if n.Key == key {
			return n.Name == name, n.Name != name
		}
	}
	return true, true
}

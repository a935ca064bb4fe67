package yaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	library "go.yaml.in/yaml/v3"
)

// Kind is what a node is.
type Kind uint8

const (
	ScalarNode Kind = iota + 1
	MappingNode
	SequenceNode
	AliasNode
)

// Tags that make a difference. Other scalars have none, unless it is written.
const (
	NullTag  = "!!null"
	MergeTag = "!!merge"
)

// Node is a value of a document.
type Node struct {
	Value        string  // of a scalar
	Content      []*Node // items; keys and values in turn; the one node that an alias stands for
	Tag          string  // NullTag, MergeTag, or with Tagged what is written
	Line, Column int32   // from 1, in characters; 0: not from a document
	Kind         Kind
	Tagged       bool // the tag is written
}

// ErrSecondDocument tells that there is more than one document.
var ErrSecondDocument = errors.New("second document")

// Read returns the top node of the only document. With ErrSecondDocument it returns that of the second. Without any
// document the error is io.EOF.
func Read(text string) (*Node, error) {
	if top := readQuick(text); top != nil {
		return top, nil
	}
	return readAny([]byte(text))
}

// readAny reads all of YAML.
func readAny(data []byte) (top *Node, err error) {
	defer func() {
		if broken := recover(); broken != nil { // the library panics on states that it holds for impossible
			err = fmt.Errorf("%v", broken)
		}
	}()
	decoder := library.NewDecoder(bytes.NewReader(data))
	var first, second library.Node
	if err := decoder.Decode(&first); err != nil {
		return nil, err
	}
	known := map[*library.Node]*Node{}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return convert(&second, known), ErrSecondDocument
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	return convert(first.Content[0], known), nil
}

// convert turns a node of the library into one of ours. known holds those that aliases may stand for.
func convert(from *library.Node, known map[*library.Node]*Node) *Node {
	n := &Node{Value: from.Value, Line: int32(from.Line), Column: int32(from.Column)}
	if from.Anchor != "" {
		known[from] = n
	}
	switch from.Kind {
	case library.MappingNode:
		n.Kind = MappingNode
	case library.SequenceNode:
		n.Kind = SequenceNode
	case library.AliasNode:
		n.Kind = AliasNode
		n.Content = []*Node{known[from.Alias]}
		return n
	case library.ScalarNode:
		n.Kind = ScalarNode
	}
	n.Tagged = from.Style&library.TaggedStyle != 0
	if tag := from.Tag; n.Tagged || tag == NullTag || tag == MergeTag {
		n.Tag = tag
	}
	for _, content := range from.Content {
		n.Content = append(n.Content, convert(content, known))
	}
	return n
}

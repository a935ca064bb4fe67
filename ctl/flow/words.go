package flow

import "gardu/ctl/abi"

// StateWord is what a flow's state is called.
func StateWord(state abi.FlowState) string {
	switch {
	case state&abi.FlowStateClosed != 0:
		return "closed"
	case state&abi.FlowStateEstablished != 0:
		return "established"
	default:
		return "new"
	}
}

// FlagLetters are TCP flags in the order in which a connection shows them.
func FlagLetters(flags uint8) string {
	var letters [8]byte
	n := 0
	for _, flag := range [...]struct{ bit, letter byte }{
		{0x02, 'S'}, {0x10, 'A'}, {0x08, 'P'}, {0x20, 'U'}, {0x01, 'F'}, {0x04, 'R'}, {0x40, 'E'}, {0x80, 'C'},
	} {
		if flags&flag.bit != 0 {
			letters[n] = flag.letter
			n++
		}
	}
	return string(letters[:n])
}

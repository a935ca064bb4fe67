package api

import "encoding/hex"

// Hex is bytes that travel as a string of hexadecimal digits.
type Hex []byte

// MarshalText writes lower-case digits, no separators.
func (h Hex) MarshalText() ([]byte, error) {
	return hex.AppendEncode(nil, h), nil
}

// UnmarshalText reads digits of either case.
func (h *Hex) UnmarshalText(text []byte) error {
	decoded, err := hex.DecodeString(string(text))
	*h = decoded
	return err
}

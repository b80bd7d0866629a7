package receive_test

import (
	"net"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

// TestAHelloIsAsOldAsItsBytes: a server that comes to a hello late, as one does that
// was stopped for a while, says when it came and not when it was read.
func TestAHelloIsAsOldAsItsBytes(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	m := hello.Message{AdminCredentialsSet: true, Version: hello.VersionPKI, UUID: [16]byte{1, 2, 3, 4, 5, 6, 7, 8}}
	if _, err := c.Write(m.Encode()); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	sent := time.Now()
	const late = time.Second
	<-time.After(late) // the kernel has taken it; nobody has accepted
	in := serve(t, receive.Config{}, l, nil)
	h := <-in.heard
	if waited := h.At.Sub(sent); waited > late/2 {
		t.Errorf("it is said to have come %s after it was sent", waited)
	}
}

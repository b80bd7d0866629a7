package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/door"
	"github.com/provisiond/provisiond/amt/hello/receive"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest"
)

// A front is what the world reaches: two ports, and who answers on them.
type front struct {
	fds     descriptors
	helloL  net.Listener
	apiL    net.Listener
	http    *http.Server
	handler atomic.Pointer[http.Handler] // answers the API's port; first notYet
	hello   *receive.Server
	api     *rest.Server
	serving atomic.Bool
}

// bind shares out the descriptors and takes both ports.
func (f *front) bind(o Options) (err error) {
	f.fds = shareDescriptors(mayOpen(), o.Limits.Connections, o.APIConnections, o.Workers, o.MaxConns)
	if f.helloL, err = listen(o.HelloListener, o.HelloListen, "hello.listen"); err != nil {
		return err
	}
	if f.apiL, err = listen(o.APIListener, o.APIListen, "api.listen"); err != nil {
		_ = f.helloL.Close()
	}
	return err
}

func (f *front) unbind() {
	_ = f.helloL.Close()
	_ = f.apiL.Close()
}

// HelloAddr is the address for hellos, APIAddr that of the API.
func (f *front) HelloAddr() net.Addr { return f.helloL.Addr() }
func (f *front) APIAddr() net.Addr   { return f.apiL.Addr() }

func (s *Server) serveHTTP() {
	var starting http.Handler = http.HandlerFunc(s.notYet)
	s.handler.Store(&starting)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.handler.Load()).ServeHTTP(w, r) }),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: zap.NewStdLog(s.log.Named("http")),
	}
	if s.o.APITLS != nil {
		s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.o.APITLS(), nil }}
	}
	guarded := &apiDoor{Listener: s.apiL, door: door.New(s.fds.api, s.o.APIPerSource), metrics: s.metrics.doorMetrics}
	guarded.behind(s.http)
	s.serving.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if s.o.APITLS != nil {
			err = s.http.ServeTLS(guarded, "", "")
		} else {
			err = s.http.Serve(guarded)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			s.fail(fmt.Errorf("serve the API: %w", err))
		}
	}()
	s.onStop("the API", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := s.http.Shutdown(short)
		if err != nil {
			err = s.http.Close()
		}
		<-done
		_ = s.helloL.Close()
		return err
	})
}

// notYet answers while the database is away.
func (s *Server) notYet(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, `{"status":"ok"}`)
	case "/metrics":
		s.metrics.handler.ServeHTTP(w, r)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(api.Health{Status: "starting",
			Parts: []api.HealthPart{{Name: "database", Status: "failing", Detail: "the database does not answer yet; see the log"}}})
	}
}

func (s *Server) startHello() error {
	kept, err := newSpool(s.o.DataDir, failpointHandler{s.Admit, s.engine.Failpoint}, s.log.Named("hello"), s.o.Registry)
	if err != nil {
		return err
	}
	replay, stop := context.WithCancel(context.Background())
	replayed := make(chan struct{})
	go func() {
		defer close(replayed)
		for tick := time.NewTicker(2 * time.Second); ; {
			if err := kept.replay(replay); err != nil {
				s.log.Warn("hello.spool", zap.Error(err))
			}
			select {
			case <-replay.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	}()
	s.onStop("the hello spool", func(context.Context) error {
		stop()
		<-replayed
		return kept.close()
	})
	s.hello = receive.NewServer(receive.Config{
		Limits: s.o.Limits, ClientCAs: s.o.ClientCAs, Certificate: s.Trust.helloCertificate, PlainOff: s.o.PlainOff,
		ProxyFrom: s.o.ProxyFrom, ReadTimeout: s.o.ReadTimeout, Known: s.Admit.Knows,
	}, kept, s.log.Named("hello"), receive.NewMetrics(s.o.Registry))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.hello.Serve(s.helloL); !errors.Is(err, receive.ErrServerClosed) {
			s.fail(fmt.Errorf("take hellos: %w", err))
		}
	}()
	s.onStop("the hello listener", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := s.hello.Shutdown(short)
		<-done
		return err
	})
	return nil
}

// listen binds a port. If the port is in use, the error names the process that
// has it, if this process can find that out.
func listen(given net.Listener, address, key string) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	if strings.Contains(err.Error(), "address already in use") {
		if who := holder(address); who != "" {
			return nil, fmt.Errorf("%s: %s is in use by %s; stop it, or choose another port", key, address, who)
		}
		return nil, fmt.Errorf("%s: %s is in use by another process; stop it (ss -ltnp shows it), or choose another port", key, address)
	}
	return nil, fmt.Errorf("%s: cannot listen on %s: %w", key, address, err)
}

// holder names the process that listens on a port: it finds the socket's inode
// in /proc/net, and the process with that inode among its open files.
func holder(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	var n int
	if _, err := fmt.Sscanf(port, "%d", &n); err != nil {
		return ""
	}
	inode := ""
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) {
				inode = f[9]
			}
		}
	}
	if inode == "" {
		return ""
	}
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		fds, err := os.ReadDir("/proc/" + p.Name() + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name()); err == nil && to == "socket:["+inode+"]" {
				name, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
				return strings.TrimSpace(string(name)) + " (pid " + p.Name() + ")"
			}
		}
	}
	return ""
}

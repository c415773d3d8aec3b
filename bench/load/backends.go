package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Behaviour is how a backend answers now. Latency and jitter (uniform, plus or minus) are milliseconds. With Slots above
// zero at most so many requests are worked on at once and the others wait in order; Queue limits how many wait (0: any
// number), above which the answer is 503 at once. A Status other than 0 is given instead of 200.
type Behaviour struct {
	Latency float64 `json:"latency"`
	Jitter  float64 `json:"jitter"`
	Slots   int     `json:"slots"`
	Queue   int     `json:"queue"`
	Status  int     `json:"status"`
}

// Command changes one backend; All asks for the counters of every backend.
type command struct {
	Backend string     `json:"backend"`
	Become  *Behaviour `json:"become"`
	All     bool       `json:"all"`
}

type configuration struct {
	Seed     int64                 `json:"seed"`
	Backends map[string]definition `json:"backends"`
}

type definition struct {
	Listen string    `json:"listen"`
	Start  Behaviour `json:"start"`
	// Calls names a URL which the backend calls before it answers, for chains; what fails there fails here.
	Calls    string `json:"calls"`
	Attempts int    `json:"attempts"`
	// TimeoutMs bounds such a call.
	TimeoutMs float64 `json:"timeout"`
	// Bytes is the length of an answer; 0: a few.
	Bytes int `json:"bytes"`
	// With a certificate only clients are served that show one of the roots'; all three are paths of PEM files.
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	Roots       string `json:"roots"`
}

type backend struct {
	name     string
	answer   string
	lock     sync.Mutex
	now      Behaviour
	chance   *rand.Rand
	working  int
	waiting  []chan struct{}
	arrived  atomic.Int64
	answered atomic.Int64
	failed   atomic.Int64
	given    atomic.Int64
	next     string
	attempts int
	client   *http.Client
}

func serve(input io.Reader) error {
	lines := bufio.NewScanner(input)
	lines.Buffer(make([]byte, 1<<20), 1<<20)
	if !lines.Scan() {
		return fmt.Errorf("no configuration on standard input")
	}
	var config configuration
	if err := json.Unmarshal(lines.Bytes(), &config); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	backends := map[string]*backend{}
	for name, each := range config.Backends {
		one := &backend{name: name, now: each.Start, chance: rand.New(rand.NewSource(config.Seed + int64(len(backends))))}
		if each.Calls != "" {
			one.next, one.attempts = each.Calls, max(1, each.Attempts)
			one.client = newClient(time.Duration(each.TimeoutMs * float64(time.Millisecond)))
		}
		one.answer = strings.Repeat("x", each.Bytes)
		backends[name] = one
		server := &http.Server{Addr: each.Listen, Handler: one}
		failures := make(chan error, 1)
		if each.Certificate == "" {
			server.Protocols = new(http.Protocols)
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
			go func() { failures <- server.ListenAndServe() }()
		} else if err := mutual(server, each.Roots); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		} else {
			go func() { failures <- server.ListenAndServeTLS(each.Certificate, each.Key) }()
		}
		select {
		case err := <-failures:
			return fmt.Errorf("%s: %w", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	fmt.Println("ready")
	for lines.Scan() {
		if err := obey(lines.Bytes(), backends); err != nil {
			return err
		}
	}
	return lines.Err()
}

// mutual lets a server take TLS 1.3 and HTTP/1.1, and clients that show a certificate of these roots alone.
func mutual(server *http.Server, roots string) error {
	pem, err := os.ReadFile(roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", roots)
	}
	server.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	return nil
}

func obey(line []byte, backends map[string]*backend) error {
	var given command
	if err := json.Unmarshal(line, &given); err != nil {
		return fmt.Errorf("command: %w", err)
	}
	if given.All {
		counts := map[string]map[string]int64{}
		for name, one := range backends {
			counts[name] = map[string]int64{
				"arrived": one.arrived.Load(), "answered": one.answered.Load(),
				"failed": one.failed.Load(), "given": one.given.Load(),
			}
		}
		text, _ := json.Marshal(counts)
		fmt.Println(string(text))
		return nil
	}
	one := backends[given.Backend]
	if one == nil || given.Become == nil {
		return fmt.Errorf("command: no backend %q, or nothing to become", given.Backend)
	}
	one.lock.Lock()
	one.now = *given.Become
	one.lock.Unlock()
	fmt.Println("ok")
	return nil
}

func (b *backend) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	b.arrived.Add(1)
	wait, status, taken := b.enter(request)
	if !taken {
		b.given.Add(1)
		return
	}
	defer b.leave()
	if wait > 0 {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-request.Context().Done():
			timer.Stop()
			b.given.Add(1)
			return
		}
	}
	if status == 0 && b.next != "" {
		status = b.pass(request)
	}
	if status == 0 {
		status = http.StatusOK
	}
	if status >= 500 {
		b.failed.Add(1)
	} else {
		b.answered.Add(1)
	}
	writer.Header().Set("x-backend", b.name)
	if strings.HasPrefix(request.Header.Get("content-type"), "application/grpc") {
		grpc(writer, status)
		return
	}
	if b.answer != "" {
		writer.Header().Set("content-length", strconv.Itoa(len(b.answer)))
		writer.WriteHeader(status)
		_, _ = io.WriteString(writer, b.answer)
		return
	}
	writer.WriteHeader(status)
	_, _ = io.WriteString(writer, strconv.Itoa(status)+"\n")
}

// grpc answers a unary call with an empty message, and says in a trailer what became of it.
func grpc(writer http.ResponseWriter, status int) {
	code := "0"
	if status >= 500 {
		code = "14"
	}
	writer.Header().Set("content-type", "application/grpc")
	writer.WriteHeader(http.StatusOK)
	_, _ = writer.Write(make([]byte, 5))
	writer.Header().Set(http.TrailerPrefix+"grpc-status", code)
}

// pass calls the next tier, as often as Attempts says.
func (b *backend) pass(request *http.Request) int {
	status := http.StatusBadGateway
	for range b.attempts {
		next, err := http.NewRequestWithContext(request.Context(), http.MethodGet, b.next, nil)
		if err != nil {
			return status
		}
		answer, err := b.client.Do(next)
		if err != nil {
			status = http.StatusBadGateway
			continue
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode < 500 {
			return 0
		}
		status = answer.StatusCode
	}
	return status
}

// enter waits for a free slot and says how long the work takes.
func (b *backend) enter(request *http.Request) (time.Duration, int, bool) {
	b.lock.Lock()
	if b.now.Slots > 0 && b.working >= b.now.Slots {
		if b.now.Queue > 0 && len(b.waiting) >= b.now.Queue {
			b.working++
			b.lock.Unlock()
			return 0, http.StatusServiceUnavailable, true
		}
		turn := make(chan struct{})
		b.waiting = append(b.waiting, turn)
		b.lock.Unlock()
		select {
		case <-turn:
		case <-request.Context().Done():
			b.lock.Lock()
			for index, other := range b.waiting {
				if other == turn {
					b.waiting = append(b.waiting[:index], b.waiting[index+1:]...)
					b.lock.Unlock()
					return 0, 0, false
				}
			}
			b.lock.Unlock() // the turn came at the same moment: hand it on
			b.leave()
			return 0, 0, false
		}
		b.lock.Lock()
	} else {
		b.working++
	}
	milliseconds := b.now.Latency + b.now.Jitter*(2*b.chance.Float64()-1)
	status := b.now.Status
	b.lock.Unlock()
	return time.Duration(milliseconds * float64(time.Millisecond)), status, true
}

func (b *backend) leave() {
	b.lock.Lock()
	defer b.lock.Unlock()
	if len(b.waiting) > 0 && (b.now.Slots == 0 || b.working <= b.now.Slots) {
		turn := b.waiting[0]
		b.waiting = b.waiting[1:]
		close(turn)
		return
	}
	b.working--
}

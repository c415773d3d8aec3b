package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Plan is an open loop: call number n is sent at n/rate seconds, whatever became of those before it.
type plan struct {
	URLs      []string          `json:"urls"` // taken in turn: one caller each
	Rate      float64           `json:"rate"` // calls per second, over all URLs
	Seconds   float64           `json:"seconds"`
	TimeoutMs float64           `json:"timeout"`
	Method    string            `json:"method"`
	Headers   map[string]string `json:"headers"`
}

type outcome struct {
	url       int
	sent      time.Duration // since the start, as planned
	took      time.Duration // from the planned instant, so that a late caller is not flattered
	status    int           // 0: no answer in time, -1: no answer at all
	backend   string
	wasLate   time.Duration
	completed bool
}

func newClient(timeout time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	transport := &http.Transport{
		DialContext: dialer.DialContext, MaxIdleConns: 0, MaxIdleConnsPerHost: 4096, DisableCompression: true, Proxy: nil,
	}
	return &http.Client{Transport: transport, Timeout: timeout}
}

func call(input io.Reader, output io.Writer) error {
	var given plan
	if err := json.NewDecoder(input).Decode(&given); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if len(given.URLs) == 0 || given.Rate <= 0 || given.Seconds <= 0 {
		return errors.New("plan: urls, rate and seconds are needed")
	}
	if given.Method == "" {
		given.Method = http.MethodGet
	}
	total := int(given.Rate * given.Seconds)
	outcomes := make([]outcome, total)
	clients := make([]*http.Client, len(given.URLs))
	for index := range clients {
		clients[index] = newClient(time.Duration(given.TimeoutMs * float64(time.Millisecond)))
	}
	fmt.Fprintf(os.Stderr, "started %d\n", time.Now().UnixMicro())
	start := time.Now()
	var pending sync.WaitGroup
	for number := range total {
		planned := time.Duration(float64(number) / given.Rate * float64(time.Second))
		if ahead := planned - time.Since(start); ahead > 0 {
			time.Sleep(ahead)
		}
		pending.Add(1)
		go func() {
			defer pending.Done()
			index := number % len(given.URLs)
			outcomes[number] = one(clients[index], given, index, start, planned)
		}()
	}
	pending.Wait()
	return write(outcomes, output)
}

func one(client *http.Client, given plan, index int, start time.Time, planned time.Duration) outcome {
	made := outcome{url: index, sent: planned, wasLate: time.Since(start) - planned}
	request, err := http.NewRequest(given.Method, given.URLs[index], nil)
	if err != nil {
		made.status = -1
		return made
	}
	for name, value := range given.Headers {
		request.Header.Set(name, value)
	}
	answer, err := client.Do(request)
	if err == nil {
		_, err = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
	}
	made.took = time.Since(start) - planned
	var timeout net.Error
	switch {
	case err == nil:
		made.status, made.backend, made.completed = answer.StatusCode, answer.Header.Get("x-backend"), true
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		made.status = 0
	default:
		made.status = -1
	}
	return made
}

// write prints: url, sent us, took us, status, backend, lateness of the caller itself in us.
func write(outcomes []outcome, output io.Writer) error {
	buffered := bufio.NewWriter(output)
	for _, each := range outcomes {
		fmt.Fprintf(buffered, "%d\t%d\t%d\t%d\t%s\t%d\n",
			each.url, each.sent.Microseconds(), each.took.Microseconds(), each.status, each.backend, each.wasLate.Microseconds())
	}
	return buffered.Flush()
}

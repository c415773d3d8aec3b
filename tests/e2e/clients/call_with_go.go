// Go's net/http: through the service's URL, through HTTP_PROXY as it reads it, and through a tunnel opened by hand.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
)

var connections = 0

func tunnel(network, _ string) (net.Conn, error) {
	proxy, err := url.Parse(os.Getenv("HTTP_PROXY"))
	if err != nil {
		return nil, err
	}
	connection, err := net.Dial(network, proxy.Host)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(connection, "CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil || answer.StatusCode != 200 {
		return nil, fmt.Errorf("no tunnel: %v %v", answer, err)
	}
	return connection, nil
}

func call(client *http.Client, method, target string, body io.Reader) []byte {
	request, err := http.NewRequest(method, target, body)
	if err != nil {
		panic(err)
	}
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if !got.Reused {
			connections++
		}
	}}
	response, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		panic(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		panic(fmt.Sprint(response.Status, err, string(text)))
	}
	return text
}

func main() {
	way, base, client := os.Args[1], "http://web", &http.Client{}
	switch way {
	case "url":
		base = os.Getenv("WEB_URL")
	case "connect":
		client.Transport = &http.Transport{Dial: tunnel}
	}
	pieces, writer := io.Pipe()
	go func() {
		for i := 0; i < 300; i++ {
			writer.Write(bytes.Repeat([]byte("c"), 1000))
		}
		writer.Close()
	}()
	told := map[string]any{
		"way":      way,
		"get":      json.RawMessage(call(client, "GET", base+"/a/b?c=d", nil)),
		"upload":   json.RawMessage(call(client, "POST", base+"/", strings.NewReader(strings.Repeat("m", 1000000)))),
		"chunked":  json.RawMessage(call(client, "PUT", base+"/", pieces)),
		"download": len(call(client, "GET", base+"/bytes/1000000", nil)),
	}
	told["reused"] = connections == 1
	json.NewEncoder(os.Stdout).Encode(told)
}

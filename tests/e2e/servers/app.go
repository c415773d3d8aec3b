// The same as app.py, in Go: answers every request with what it was asked. PORT and HOST come from the mesh.
package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func answer(response http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	headers := [][2]string{{"host", request.Host}}
	for name, values := range request.Header {
		for _, value := range values {
			headers = append(headers, [2]string{name, value})
		}
	}
	name := os.Getenv("NAME")
	response.Header().Set("server-name", name)
	json.NewEncoder(response).Encode(map[string]any{
		"name": name, "method": request.Method, "target": request.RequestURI, "headers": headers, "body": string(body),
	})
}

func sheet() {
	path := os.Getenv("SHEET")
	if path == "" {
		return
	}
	found := map[string]string{}
	for _, line := range os.Environ() {
		name, value, _ := strings.Cut(line, "=")
		found[name] = value
	}
	text, _ := json.Marshal(found)
	os.WriteFile(path+".new", text, 0o600)
	os.Rename(path+".new", path)
}

func main() {
	server := &http.Server{Handler: http.HandlerFunc(answer)}
	listener, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		panic(err)
	}
	sheet()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		panic(err)
	}
	server.Shutdown(context.Background())
}

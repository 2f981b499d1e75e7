// An HTTP server of Go's standard library that prints a line for each request it was asked, and answers with the same line.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
)

func main() {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Addr: ":8080", Protocols: &protocols, Handler: http.HandlerFunc(answer)}
	log.Fatal(server.ListenAndServe())
}

func answer(response http.ResponseWriter, request *http.Request) {
	line := fmt.Sprintf("%s %s", request.Method, request.URL.Path)
	fmt.Println("asked " + line)
	_, _ = io.Copy(io.Discard, request.Body)
	_, _ = io.WriteString(response, line)
}

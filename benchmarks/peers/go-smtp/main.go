// The server of go-smtp, with a backend that accepts every message and discards it.
//
//	go-smtp [-tls implicit|starttls -cert FILE] ACCOUNT...
//
// Prints its port.  All accounts have the password in the environment variable PASSWORD.
package main

import (
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync/atomic"

	"github.com/emersion/go-smtp"
)

type backend struct {
	accounts map[string]bool
	password string
}

var number uint64 = 0xABC123

func (b *backend) Login(_ *smtp.ConnectionState, name, password string) (smtp.Session, error) {
	if !b.accounts[name] || subtle.ConstantTimeCompare([]byte(password), []byte(b.password)) != 1 {
		return nil, errors.New("invalid name or password")
	}
	return &session{}, nil
}

func (b *backend) AnonymousLogin(_ *smtp.ConnectionState) (smtp.Session, error) {
	return &session{}, nil
}

type session struct{}

func (s *session) Mail(from string, options smtp.MailOptions) error { return nil }
func (s *session) Rcpt(to string) error                            { return nil }
func (s *session) Reset()                                          {}
func (s *session) Logout() error                                   { return nil }

// Data reads the content and answers with a queue id.  An SMTPError can also be a positive reply.
func (s *session) Data(content io.Reader) error {
	if _, err := io.Copy(io.Discard, content); err != nil {
		return err
	}
	id := fmt.Sprintf("queued as %X", atomic.AddUint64(&number, 1))
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: id}
}

func main() {
	mode := flag.String("tls", "", "implicit or starttls")
	file := flag.String("cert", "", "PEM file with the certificate and its key")
	flag.Parse()
	accounts := map[string]bool{}
	for _, name := range flag.Args() {
		accounts[name] = true
	}
	server := smtp.NewServer(&backend{accounts, os.Getenv("PASSWORD")})
	server.Domain = "mail.example.test"
	server.MaxMessageBytes = 26214400
	server.AllowInsecureAuth = true
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	if *mode != "" {
		pair, err := tls.LoadX509KeyPair(*file, *file)
		if err != nil {
			log.Fatal(err)
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
		if *mode == "implicit" {
			listener = tls.NewListener(listener, server.TLSConfig)
		}
	}
	log.Fatal(server.Serve(listener))
}

// A peer that speaks the compressed streams of the Go library getty: raw deflate or snappy,
// flushed after each write, without an end of the compressed stream.
//
//	compress client FORMAT LEVEL ADDRESS      sends lines and checks their echoes
//	compress server FORMAT LEVEL LINES        echoes lines; prints its address
//
// FORMAT is deflate, snappy, or deflate-final, which ends its stream with a final block.
package main

import (
	"bufio"
	"compress/flate"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/golang/snappy"
)

type flusher interface {
	io.Writer
	Flush() error
}

func fail(what string, err error) {
	fmt.Fprintln(os.Stderr, what+":", err)
	os.Exit(1)
}

func wrap(conn net.Conn, format string, level int) (io.Reader, flusher) {
	if format == "snappy" {
		return snappy.NewReader(conn), snappy.NewBufferedWriter(conn)
	}
	writer, err := flate.NewWriter(conn, level)
	if err != nil {
		fail("level", err)
	}
	return flate.NewReader(conn), writer
}

func finish(conn net.Conn, format string, writer flusher) {
	if format == "deflate-final" {
		if err := writer.(*flate.Writer).Close(); err != nil {
			fail("close", err)
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		fail("end", err)
	}
}

// The end of a stream without a final block, after all of its bytes.
func isEnd(err error) bool {
	return err == io.EOF || err == io.ErrUnexpectedEOF
}

func lines() []string {
	random := rand.New(rand.NewSource(1))
	var lines []string
	for n := 0; n < 200; n++ {
		lines = append(lines, fmt.Sprintf("%d %s", n, strings.Repeat("text ", n)))
		noise := make([]byte, random.Intn(20000))
		for i := range noise {
			noise[i] = byte('!' + random.Intn(90))
		}
		if n%10 == 0 {
			lines = append(lines, string(noise))
		}
	}
	return append(lines, "")
}

func client(format string, level int, address string) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		fail("dial", err)
	}
	plain, writer := wrap(conn, format, level)
	sent := lines()
	go func() {
		for _, line := range sent {
			if _, err := writer.Write([]byte(line + "\n")); err != nil {
				fail("write", err)
			}
			if err := writer.Flush(); err != nil {
				fail("flush", err)
			}
		}
		finish(conn, format, writer)
	}()
	reader := bufio.NewReader(plain)
	for n, line := range sent {
		echo, err := reader.ReadString('\n')
		if err != nil {
			fail(fmt.Sprintf("line %d", n), err)
		}
		if echo != line+"\n" {
			fail(fmt.Sprintf("line %d", n), fmt.Errorf("%q is not %q", echo, line))
		}
	}
	if rest, err := reader.ReadString('\n'); !isEnd(err) || rest != "" {
		fail("end", fmt.Errorf("%q, %v", rest, err))
	}
}

func server(format string, level int, count int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail("listen", err)
	}
	fmt.Println("listening", listener.Addr())
	conn, err := listener.Accept()
	if err != nil {
		fail("accept", err)
	}
	plain, writer := wrap(conn, format, level)
	reader := bufio.NewReader(plain)
	for n := 0; ; n++ {
		line, err := reader.ReadString('\n')
		if err != nil {
			if !isEnd(err) || line != "" || n != count {
				fail(fmt.Sprintf("%d lines of %d", n, count), err)
			}
			break
		}
		if _, err := writer.Write([]byte(line)); err != nil {
			fail("write", err)
		}
		if err := writer.Flush(); err != nil {
			fail("flush", err)
		}
	}
	finish(conn, format, writer)
	if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
		fail("after the end", fmt.Errorf("%d bytes, %v", n, err))
	}
}

func main() {
	level, err := strconv.Atoi(os.Args[3])
	if err != nil {
		fail("level", err)
	}
	switch os.Args[1] {
	case "client":
		client(os.Args[2], level, os.Args[4])
	case "server":
		count, err := strconv.Atoi(os.Args[4])
		if err != nil {
			fail("lines", err)
		}
		server(os.Args[2], level, count)
	}
}

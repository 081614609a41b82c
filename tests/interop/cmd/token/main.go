// Command token signs and verifies JSON web tokens with golang-jwt, the library that Piko verifies them with.
//
// token --alg ALG --key FILE [--kid KID] sign: claims from standard input, the token to standard output.
// token --alg ALG --key FILE verify: a token from standard input; its claims to standard output.
// FILE is a secret, or a private or public key in PEM.
package main

import (
	"crypto"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

func main() {
	alg := flag.String("alg", "HS256", "algorithm")
	file := flag.String("key", "", "file of the key")
	kid := flag.String("kid", "", "name of the key")
	flag.Parse()
	answer, err := run(flag.Arg(0), *alg, *file, *kid)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(answer)
}

func run(what, alg, file, kid string) (string, error) {
	key, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return "", err
	}
	switch what {
	case "sign":
		return sign(alg, key, kid, input)
	case "verify":
		return verify(alg, key, strings.TrimSpace(string(input)))
	}
	return "", fmt.Errorf("%q is neither sign nor verify", what)
}

func sign(alg string, pem []byte, kid string, input []byte) (string, error) {
	var claims jwt.MapClaims
	if err := json.Unmarshal(input, &claims); err != nil {
		return "", err
	}
	key, err := signingKey(alg, pem)
	if err != nil {
		return "", err
	}
	token := jwt.NewWithClaims(jwt.GetSigningMethod(alg), claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	return token.SignedString(key)
}

func signingKey(alg string, pem []byte) (any, error) {
	switch alg[:2] {
	case "RS":
		return jwt.ParseRSAPrivateKeyFromPEM(pem)
	case "ES":
		return jwt.ParseECPrivateKeyFromPEM(pem)
	case "Ed":
		key, err := jwt.ParseEdPrivateKeyFromPEM(pem)
		if err != nil {
			return nil, err
		}
		return key.(crypto.Signer), nil
	}
	return pem, nil
}

func verify(alg string, pem []byte, text string) (string, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(text, claims, func(*jwt.Token) (any, error) {
		switch alg[:2] {
		case "RS":
			return jwt.ParseRSAPublicKeyFromPEM(pem)
		case "ES":
			return jwt.ParseECPublicKeyFromPEM(pem)
		case "Ed":
			return jwt.ParseEdPublicKeyFromPEM(pem)
		}
		return pem, nil
	}, jwt.WithValidMethods([]string{alg}))
	if err != nil {
		return "", err
	}
	answer, err := json.Marshal(claims)
	return string(answer), err
}
